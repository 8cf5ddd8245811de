"""The modality gap that stage 3 reports: of the weights it began with and of the best, and no others, whatever happened in between."""

import json
import os
import signal

import polars as pl
import pytest

from d2st.adapter.evaluate.gap import MEASURES, modality_gap
from d2st.adapter.train import gaps, load_detector, run_training
from d2st.adapter.train.log import gap_line
from d2st.cache import TokenLoader

SMALL = (
    "adapter.params.width=16",
    "optim.batch_size=4",
    "optim.epochs=2",
    "optim.ema=0.5",
    "optim.precision=float32",
    "optim.lr=3e-3",
)


def go(store, runs, *, stages=(3,), overrides=SMALL, **options):
    return run_training(store, stages=stages, runs=runs, name="run", overrides=overrides, device="cpu", **options)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """Runs, results and events of three stages that were never stopped."""
    runs, events = tmp_path_factory.mktemp("gaps"), []
    return runs, go(store, runs, stages=(1, 2, 3), on_event=events.append), events


def gap_of(store, checkpoint):
    detector, meta = load_detector(checkpoint)
    train, val = (store.samples().filter(pl.col("split") == split) for split in ("train", "val"))
    with TokenLoader(store) as source:
        return modality_gap(detector, source, train, val, clip_frames=meta["clip_frames"], seed=0)


def test_before_is_the_start_and_after_the_best(whole, store):
    runs, results, events = whole
    assert [result.gap for result in results[:2]] == [None, None]
    gap = results[2].gap
    # a clip of stage 2 is as long as one of stage 3, so its checkpoint is measured in the same way
    assert gap["before"] == pytest.approx(gap_of(store, runs / "run" / "stage2"))
    assert gap["after"] == pytest.approx(gap_of(store, runs / "run" / "stage3"))
    assert set(gap["before"]) == set(gap["after"]) == set(MEASURES)
    assert gap["before"] != gap["after"]
    assert json.loads((runs / "run" / "stage3" / "result.json").read_text())["gap"] == gap
    assert [event["gap"] for event in events if event["event"] == "end"] == [None, None, gap]
    assert gap_line(gap["before"], gap["after"]) in (runs / "run" / "stage3" / "log.txt").read_text()
    assert [path.parent.name for path in runs.rglob("gap_before.json")] == ["stage3"]


def test_a_stopped_stage_keeps_its_gap_before(whole, store, tmp_path, monkeypatch):
    runs, results, _ = whole

    def stop(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (2, 1):
            os.kill(os.getpid(), signal.SIGINT)

    init = str(runs / "run" / "stage2")
    with pytest.raises(KeyboardInterrupt):
        go(store, tmp_path, init=init, on_event=stop)
    measured = []
    monkeypatch.setattr(gaps, "modality_gap", lambda *args, **options: measured.append(1) or modality_gap(*args, **options))
    resumed = go(store, tmp_path, resume=True, overrides=())[0]
    assert resumed.gap == results[2].gap
    assert len(measured) == 1  # after; the weights of before are gone
    assert go(store, tmp_path, resume=True, overrides=())[0].gap == results[2].gap
    assert len(measured) == 1


def test_what_older_runs_did_not_write_down_is_not_made_up(whole, store, tmp_path):
    runs, _, _ = whole

    def stop(event):
        if event["event"] == "epoch":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(store, tmp_path, init=str(runs / "run" / "stage2"), on_event=stop)
    (tmp_path / "run" / "stage3" / "gap_before.json").unlink()
    gap = go(store, tmp_path, resume=True, overrides=())[0].gap
    assert gap["before"] is None
    assert gap["after"]["probe_accuracy"] is not None
    path = tmp_path / "run" / "stage3" / "result.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "gap"}))
    assert go(store, tmp_path, resume=True, overrides=())[0].gap is None


def test_the_line_shows_what_is_known():
    before = dict.fromkeys(MEASURES, 0.75) | {"centroid_fake": None}
    line = gap_line(before, dict.fromkeys(MEASURES, 0.5))
    assert line == (
        "modality gap: centroids real 0.75 -> 0.50, fake - -> 0.50 spreads; probe 0.75 -> 0.50 (0.5 is none); "
        "transfer AUC image to video 0.750 -> 0.500, video to image 0.750 -> 0.500"
    )
    assert "real - -> 0.75" in gap_line(None, before)
    assert "real 0.75, fake - spreads" in gap_line(before)
