"""From media to a score and back: cached and direct scores agree; bad files are rows; the build's commands say what they did."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from d2st import Detector
from d2st.adapter.evaluate.operating import operating_points
from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.evaluate.validation import score_validation
from d2st.adapter.train import load_detector, run_training
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import MediaError, RunError, UsageError, WeightsError
from d2st.cli.app import app
from d2st.pipeline.manifest import write_manifest
from d2st.pipeline.media.encode import write_h264
from d2st.scoring import sigmoid

BUILD = [
    "--detector",
    "none",
    "--backbone",
    "d2st-test",
    "--pretrained",
    "random:0",
    "--layers",
    "0,2",
    "--frames",
    "4",
    "--device",
    "cpu",
]


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with media/, faces.parquet, faces.d2st and runs/all with three stages, made by the commands."""
    folder = tmp_path_factory.mktemp("project")
    toys = runpy.run_path(str(Path(__file__).parents[1] / "pipeline" / "build" / "conftest.py"))
    (folder / "media").mkdir()
    manifest = toys["_make_media"](folder / "media", videos=12, images=12)
    manifest = manifest.with_columns(
        split=pl.Series(["train"] * 4 + ["val"] * 4 + ["test"] * 4, dtype=manifest.schema["split"]).append(
            pl.Series(["train"] * 4 + ["val"] * 4 + ["test"] * 4, dtype=manifest.schema["split"])
        )
    )
    write_manifest(manifest, folder / "faces.parquet", root=folder / "media")
    built = invoke(
        "cache", "build", folder / "faces.parquet", "--cache", folder / "faces.d2st", "--workers", 1, "--json", *BUILD
    )
    document = json.loads(built.stdout)
    assert (document["samples"], document["padded"], document["rejected"]) == (24, 1, {})
    small = ["adapter.params.width=16", "optim.epochs=1", "optim.batch_size=4", "data.frames=4"]
    run_training(
        Store.open(folder / "faces.d2st"),
        runs=folder / "runs",
        name="all",
        overrides=[*small, "stage1.data.frames=1"],
        device="cpu",
    )
    return folder


@pytest.mark.parametrize("stage", [1, 3])
def test_direct_and_cached_scores_are_the_same(project, stage):
    assert_same_scores(project, project / "runs" / "all" / f"stage{stage}", Store.open(project / "faces.d2st"))


def test_a_file_is_quantised_as_the_cache_was(project):
    """The calibration travels with the checkpoint: no store is at hand when a file is scored."""
    cache = project / "int8.d2st"
    invoke("cache", "build", project / "faces.parquet", "--cache", cache, "--workers", 1, "--dtype", "int8", *BUILD)
    small = ["adapter.params.width=16", "optim.epochs=1", "optim.batch_size=4"]
    store = Store.open(cache)
    run_training(store, stages=(1,), runs=project / "runs8", name="int8", overrides=small, device="cpu")
    run = project / "runs8" / "int8"
    assert load_detector(run)[1]["calibration"].keys() == set(store.tokens.layers)
    assert_same_scores(project, run, store)


def assert_same_scores(project, run, store):
    network, meta = load_detector(run)
    cached = score_samples(network, TokenLoader(store), store.samples(), clip_frames=meta["clip_frames"])
    paths = store.samples().select("sample_id", "path")
    detector = Detector.load(run, device="cpu")
    rows = cached.join(paths, on="sample_id").to_dicts()
    predictions = list(detector.predict_files([project / "media" / row["path"] for row in rows], workers=1))
    for row, found in zip(rows, predictions, strict=True):
        assert found.kind == row["kind"]
        assert found.score == pytest.approx(row["score"], abs=1e-6), row["path"]
        assert found.frame_scores == pytest.approx(row["frame_scores"], abs=1e-6)
        assert len(found.timestamps_s) == len(found.frame_scores)


def test_a_folder_of_frames_is_a_video(project, tmp_path):
    for i in range(5):
        (tmp_path / f"{i:03d}.png").write_bytes((project / "media" / f"i{i}.png").read_bytes())
    found = Detector.load(project / "runs" / "all", device="cpu").predict(tmp_path)
    assert (found.kind, len(found.frame_scores)) == ("frames", 4)


def test_a_bad_file_is_an_error_with_a_reason(project, tmp_path):
    detector = Detector.load(project / "runs" / "all", device="cpu")
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    with pytest.raises(MediaError) as caught:
        detector.predict(tmp_path / "text.mp4")
    assert caught.value.reason == "not_media"


def test_the_command_goes_on_past_bad_files(project, tmp_path):
    (tmp_path / "empty.mp4").touch()
    files = [tmp_path / "gone.jpg", project / "media" / "v1.mp4", tmp_path / "empty.mp4"]
    options = ["--run", project / "runs" / "all", "--device", "cpu", "--workers", 1]
    found = json.loads(invoke("predict", *files, *options, "--json").stdout)
    assert [entry.get("reason") for entry in found] == ["missing", None, "empty"]
    assert 0 <= found[1]["score"] <= 1
    shown = invoke("predict", *files, *options, "--frames").stdout
    assert "missing" in shown
    assert "0.12 s" in shown
    assert json.loads(invoke("predict", files[0], *options, "--json", code=1).stdout)[0]["reason"] == "missing"


@pytest.fixture(scope="module")
def long_video(project):
    """1.6 s of 40 frames; the training clips show 0.32 s. Noise that fades, so that the score moves."""
    generator = np.random.default_rng(1)
    frames = [generator.integers(0, 255 - 5 * k, (48, 48, 3), np.uint8) for k in range(40)]
    path = project / "long" / "talk.mp4"
    path.parent.mkdir()
    write_h264(path, frames, fps=25)
    return path


def test_a_long_video_comes_in_windows_with_a_timeline(project, long_video, tmp_path):
    options = ["--run", project / "runs" / "all", "--device", "cpu", "--workers", 1]
    names = f"{long_video}\0{project / 'media' / 'i0.png'}\0".encode()
    arguments = ["predict", "-", "--null", *options, "--timeline", tmp_path / "out", "--annotate", "--json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=names)
    assert result.exit_code == 0, (result.output, result.exception)
    video, image = json.loads(result.stdout)
    assert [round(window["start_s"], 2) for window in video["windows"]] == [0.0, 0.32, 0.64, 0.96, 1.28]
    logits = [window["logit"] for window in video["windows"]]
    assert video["logit"] == pytest.approx(sum(logits) / 5)
    assert len(set(logits)) == 5
    assert len(video["frame_scores"]) == len(video["timestamps_s"]) == 20
    assert any("of 5 windows lie above the threshold" in note for note in video["notes"])
    assert image["windows"][0]["frames"] == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["talk.csv", "talk.mp4", "talk.png"]
    rows = pl.read_csv(tmp_path / "out" / "talk.csv")
    assert rows["row"].value_counts(sort=True).rows() == [("frame", 20), ("window", 5)]
    assert rows["logit"].drop_nulls().to_list() == pytest.approx(logits, abs=1e-6)
    assert (tmp_path / "out" / "talk.png").read_bytes().startswith(b"\x89PNG")


def test_a_video_is_never_replaced_by_its_annotation(project, long_video):
    before = long_video.read_bytes()
    arguments = ["predict", long_video, "--run", project / "runs" / "all", "--timeline", long_video.parent, "--annotate"]
    assert "one of the videos to score" in str(invoke(*arguments, code=1).exception)
    assert long_video.read_bytes() == before


def test_results_are_kept_and_gone_on_with(project, tmp_path):
    options = ["--run", project / "runs" / "all", "--device", "cpu", "--workers", 1, "--out", tmp_path / "scores.parquet"]
    inbox = tmp_path / "inbox"
    (inbox / "frames").mkdir(parents=True)
    for name in ("i1.png", "i2.png"):
        shutil.copy(project / "media" / name, inbox)
        shutil.copy(project / "media" / name, inbox / "frames" / f"000{name[1:]}")
    (inbox / "text.jpg").write_text("no picture")
    first = json.loads(invoke("predict", inbox, *options, "--json").stdout)
    assert (first["scored"], first["failed"], first["there_already"]) == (3, {"not_media": 1}, 0)
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert dict(table.select("path", "kind").drop_nulls().rows())[str(inbox / "frames")] == "frames"
    shutil.copy(project / "media" / "i3.png", inbox)
    again = invoke("predict", inbox, *options)
    assert "1 scored" in again.stdout
    assert "4 were there already" in again.stdout
    refused = invoke("predict", inbox, *options, "--fpr", 0.2, code=1)
    assert "fpr None there, 0.2 here" in str(refused.exception)


def test_the_threshold_comes_from_validation(project):
    run = project / "runs" / "all" / "stage3"
    detector = Detector.load(run, device="cpu")
    network, meta = load_detector(run)
    store = Store.open(project / "faces.d2st")
    scored = score_validation(network, [store], layers=meta["layers"], clip_frames=meta["clip_frames"])
    assert meta["operating"] == operating_points(scored)
    assert detector.clip_s == pytest.approx(0.32)
    path = project / "media" / "v1.mp4"
    default, strict = detector.predict(path), detector.predict(path, fpr=0.01)
    real = scored.filter((pl.col("label") == 0) & (pl.col("kind") != "image"))["logit"]
    assert strict.threshold == pytest.approx(detector.operating.probability("video", real.max()), abs=1e-4)
    assert (strict.logit, strict.probability) == (default.logit, default.probability)
    assert default.probability == pytest.approx(sigmoid(default.logit / detector.operating.temperature("video")))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fpr", "2"], "no rate"),
        (["--window", "-1"], "no length of time"),
        (["--annotate"], "needs a folder"),
        (["--fresh"], "starts the table"),
        (["--out", "x.json"], "neither of the endings"),
        (["--out", "x.csv", "--frames"], "Leave one of them out"),
    ],
)
def test_options_that_make_no_sense_cost_nothing(options, says):
    error = invoke("predict", "a.mp4", "--run", "nowhere", *options, code=1).exception
    assert isinstance(error, UsageError)
    assert says in str(error)


def test_wrong_weights_and_lost_runs_are_named(project, tmp_path):
    with pytest.raises(WeightsError, match="are not those that the cache was built with"):
        Detector.load(project / "runs" / "all", pretrained="random:1", device="cpu")
    with pytest.raises(RunError, match="does not exist"):
        Detector.load(tmp_path / "nothing")


def test_plan_counts_what_the_build_then_takes(project):
    found = json.loads(invoke("cache", "plan", project / "faces.parquet", "--json", *BUILD).stdout)
    assert found["samples"] == {"image": 12, "video": 12}
    assert found["slots"] == 12 * 4 + 12
    assert found["frames"] == 58  # it tried them all, and one video is two frames shorter
    stored = json.loads(invoke("cache", "info", project / "faces.d2st", "--json").stdout)
    arrays = sum(f.stat().st_size for f in (project / "faces.d2st").rglob("c/*/*") if f.is_file())
    arrays += sum(f.stat().st_size for f in (project / "faces.d2st").rglob("c/*/0/0/0") if f.is_file())
    assert found["crop_bytes"] + found["token_bytes"] == pytest.approx(arrays, rel=0.05)
    assert [stored["crops"][key] for key in ("samples", "frames", "padded")] == [24, 58, 1]


def test_info_and_a_second_build_say_what_is_there(project):
    shown = invoke("cache", "info", project / "faces.d2st").stdout
    assert "block_0, block_2" in shown
    again = invoke("cache", "build", project / "faces.parquet", "--cache", project / "faces.d2st", *BUILD).stdout
    assert "everything was cached already" in again
