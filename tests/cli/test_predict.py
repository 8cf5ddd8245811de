"""From media to a score and back: cached and direct scores agree; bad files are rows; the build's commands say what they did."""

import json
import runpy
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from d2st import Detector
from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.train import load_detector, run_training
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import MediaError, RunError, WeightsError
from d2st.cli.app import app
from d2st.pipeline.manifest import write_manifest

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
