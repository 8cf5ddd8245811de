"""`d2st explain` from media to files, with a small backbone and an adapter that nobody trained."""

import json
import os
import shutil
from functools import partial

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from d2st import Detector
from d2st.adapter.explain import evidence, relevance
from d2st.adapter.nets import Detector as Network
from d2st.adapter.nets import Head, build_adapter
from d2st.cache.errors import ConfigError, MediaError, UsageError
from d2st.cli import explain_check
from d2st.cli.app import app
from d2st.opening import Opened
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.restore import FrontEnd
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.corpus import Sample, plan_corpus
from d2st.pipeline.corpus.files import make_file
from d2st.pipeline.faces import build_detector
from d2st.pipeline.media.encode import write_h264
from d2st.scoring import NetworkScorer

LAYERS = ("block_0", "block_2")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu"), LAYERS, micro_batch=8)
    torch.manual_seed(0)
    channels, grid = encoder.backbone.channels, encoder.backbone.grid
    stats = {name: (torch.zeros(channels), torch.ones(channels)) for layer in LAYERS for name in (layer, f"{layer}/cls")}
    adapter = build_adapter("d2st", layers=LAYERS, channels=channels, grid=grid, stats=stats, width=16)
    network = Network(adapter, Head(adapter.embed_dim)).eval()
    torch.nn.init.normal_(network.head.linear.weight)
    front_end = FrontEnd(build_detector("none"), CropSettings(4, "even", 32, 1.3), encoder)
    meta = {"clip_frames": 4, "adapter": "d2st", "stage": 3, "config": {"backbone": "d2st-test"}, "layers": list(LAYERS)}
    scorer = NetworkScorer(network, clip_frames=4, calibration={})
    path = tmp_path_factory.mktemp("runs") / "toy" / "stage3" / "best.safetensors"
    return Detector(Opened(scorer, front_end, meta, "digest", path))


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    monkeypatch.setattr(evidence, "relevance", partial(relevance, copies=2))


@pytest.fixture
def command(detector, monkeypatch):
    monkeypatch.setattr(Detector, "load", classmethod(lambda cls, run, **options: detector))

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, ["explain", *map(str, arguments), "--run", "toy", "--workers", "1"])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return invoke


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """clip.mp4: a still second, then one of motion; photo.png."""
    import cv2

    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (64, 64, 3), np.uint8)
    frames = [still] * 16 + [np.roll(still, 5 * k, axis=1) for k in range(32)]
    write_h264(folder / "clip.mp4", frames, fps=8)
    cv2.imwrite(str(folder / "photo.png"), still)
    return folder


def test_a_file_is_explained_with_the_score_that_it_gets(detector, media):
    found, scored = detector.explain(media / "clip.mp4", window_s=None), detector.predict(media / "clip.mp4", window_s=None)
    assert found.logit == pytest.approx(scored.logit, abs=1e-5)
    assert found.probability == pytest.approx(scored.probability, abs=1e-6)
    assert (found.fake, found.windows, found.timestamps_s) == (scored.fake, 1, scored.timestamps_s)
    assert found.crops.shape == (4, 32, 32, 3)
    with pytest.raises(MediaError):
        detector.explain(media / "nothing.mp4")


def test_of_a_long_video_the_most_suspicious_window_is_explained(detector, media):
    found, scored = detector.explain(media / "clip.mp4", window_s=2.0), detector.predict(media / "clip.mp4", window_s=2.0)
    worst = max(scored.windows, key=lambda window: window.logit)
    assert found.windows == len(scored.windows) == 3
    assert (found.start_s, found.end_s) == (worst.start_s, worst.end_s)
    assert found.logit == pytest.approx(worst.logit, abs=1e-5)


def test_drawings_film_and_numbers_are_written(command, media, tmp_path):
    result = command(media / "clip.mp4", media / "photo.png", media / "nothing.mp4", "--out", tmp_path / "why", "--json")
    clip, photo, nothing = json.loads(result.stdout)
    assert nothing["reason"] == "missing"
    command("none.mp4", "--out", tmp_path, code=1)  # nothing could be explained
    assert set(clip["layers"]) == set(LAYERS)
    written = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert written == ["clip.json", "clip.mp4", "clip.png", "photo.json", "photo.png"]
    assert photo["written"] == [str(tmp_path / "why" / name) for name in ("photo.json", "photo.png")]
    document = json.loads((tmp_path / "why" / "clip.json").read_text())
    assert document["logit"] == pytest.approx(clip["logit"])
    assert len(document["evidence"]["relevance_total"]) == len(document["timestamps_s"]) == 4
    with av.open(str(tmp_path / "why" / "clip.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 16  # half a second a frame, at 8 a second


def test_bytes_of_a_name_that_are_no_text_are_escaped(command, media, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.png")
    shutil.copy(media / "photo.png", path)
    (found,) = json.loads(command(path, "--out", tmp_path / "why", "--json").stdout)
    assert found["written"] == [f"{tmp_path}/why/\\xff{ending}" for ending in (".json", ".png")]


def test_what_makes_no_sense_is_refused_before_any_work(media, tmp_path, monkeypatch):
    photo, twin = media / "photo.png", tmp_path / "photo.png"
    shutil.copy(photo, twin)
    for arguments in (
        [photo, twin],  # both would be photo.png
        [twin, "--out", tmp_path],  # over itself
        [],
        ["--check", "faces.d2st"],  # without masks
        [photo, "--max-samples", "3"],
        [photo, "--base", "black"],
        [photo, "--window", "0"],
    ):
        result = CliRunner().invoke(app, ["explain", *map(str, arguments), "--run", "none"])
        assert isinstance(result.exception, UsageError), arguments
    assert twin.read_bytes() == photo.read_bytes()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A picture and a video of the demo's corpus, with what they were made from; and their rows."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "corpus.json").write_text(json.dumps({"seed": 0, "identities": 6}))
    fakes = [
        next(s for s in plan_corpus(0, 6) if (s.kind, s.method) == wanted)
        for wanted in (("image", "swap"), ("video", "lipsync"))
    ]
    for fake in fakes:
        make_file(root, fake, seed=0)
        make_file(root, Sample(fake.split, "real", fake.kind, fake.identity, fake.take), seed=0)
    rows = [
        {"sample_id": s.stem, "video_id": s.stem, "kind": s.kind, "method": s.method, "label": 1, "path": s.path} for s in fakes
    ]
    return root, rows


@pytest.mark.parametrize("base", ["genuine", "blur"])
def test_maps_are_checked_against_what_was_manipulated(command, corpus, tmp_path, monkeypatch, base):
    root, rows = corpus
    monkeypatch.setattr("d2st.cli.explain_cases.choose_fakes", lambda *arguments, **options: rows)
    result = command("--check", "faces.d2st", "--masks", root, "--out", tmp_path, "--base", base, "--json")
    document = json.loads(result.stdout)
    assert (document["base"], document["left_out"], document["scopes"]["all"]["clips"]) == (base, 0, 2)
    assert set(document["scopes"]) == {"all", "images", "videos", "images: swap", "videos: lipsync"}
    found = document["scopes"]["videos: lipsync"]
    assert set(found["maps"]) == {"relevance", "attention", "centre", "another clip's", "random"}
    assert 0.01 < found["area"] < 0.2  # a mouth in a whole picture
    starts = {round(each["deletion_curve"][0], 6) for each in found["maps"].values()}
    assert len(starts) == 1
    assert {path.name for path in tmp_path.iterdir()} == {f"check-test-{base}.json", f"check-test-{base}.png"}


def test_a_genuine_base_differs_where_the_mask_is_alone(detector, corpus):
    from d2st.cli.explain_cases import plan_of, prepare

    root, rows = corpus
    cases = prepare(detector, detector.opened.scorer, root, rows, plan_of(root), genuine=True, workers=1)
    for case in cases:
        change = np.abs(case.crops.astype(float) - case.base).mean(-1)
        assert change[case.masks > 0.9].mean() > 5 * change[case.masks == 0].mean()


def test_a_folder_without_masks_is_no_corpus(command, tmp_path):
    result = command("--check", "faces.d2st", "--masks", tmp_path, code=1)
    assert isinstance(result.exception, ConfigError)


def test_check_tables_show_every_manipulation(corpus):
    measure = {"value": 0.5, "gain": 0.1, "interval": [0.05, float("nan")]}
    scope = {
        "clips": 2,
        "chance": 0.3,
        "area": 0.2,
        "maps": {"relevance": dict.fromkeys(("deletion", "insertion", "hit", "energy"), measure)},
    }
    made = list(explain_check._tables({"all": scope, "videos: swap": scope}, base="blur"))
    assert [one.row_count for one in made] == [1, 1, 1]
