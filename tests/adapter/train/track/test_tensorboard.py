"""Real event files, read back by TensorBoard's own reader."""

import os
import signal

import pytest

from d2st.adapter.train import run_training
from d2st.adapter.train.track import events

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

SMALL = ("adapter.name=linear_probe", "optim.batch_size=4", "optim.epochs=3")


def read(folder):
    made = accumulator.EventAccumulator(str(folder))
    made.Reload()
    return made


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(events, "STEP_EVERY_S", 0.0)


def test_a_stopped_and_resumed_run_has_the_curves_of_a_whole_one(store, tmp_path, every_step):
    def stop(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (2, 2):
            os.kill(os.getpid(), signal.SIGINT)

    options = {"stages": [1], "runs": tmp_path, "overrides": SMALL, "device": "cpu", "track": ["tensorboard"]}
    (result,) = run_training(store, name="whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run_training(store, name="parts", on_event=stop, **options)
    run_training(store, name="parts", resume=True, **options)
    whole, parts = (read(tmp_path / name / "stage1" / "tensorboard") for name in ("whole", "parts"))
    assert set(whole.Tags()["scalars"]) == set(parts.Tags()["scalars"])
    assert {"step/loss", "step/lr", "train/loss", "val/video_auc", "val/loss", "result/value"} <= set(whole.Tags()["scalars"])
    for tag in whole.Tags()["scalars"]:
        if "samples_per_s" in tag or "seconds" in tag:
            continue
        curves = [[(point.step, point.value) for point in run.Scalars(tag)] for run in (whole, parts)]
        assert curves[0] == curves[1], tag
    steps = [point.step for point in whole.Scalars("step/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert [point.step for point in whole.Scalars("val/loss")] == [len(steps) // 3 * n for n in (1, 2, 3)]
    assert whole.Scalars("result/value")[0].value == pytest.approx(result.value)


def test_settings_are_there_to_read_and_to_compare(store, tmp_path):
    run_training(store, name="x", stages=[1], runs=tmp_path, overrides=SMALL, device="cpu", track=["tensorboard"])
    run = read(tmp_path / "x" / "stage1" / "tensorboard")
    text = run.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    adapter.name = linear_probe" in text.splitlines()
    assert "_hparams_/session_start_info" in run.summary_metadata


def test_a_folder_that_cannot_be_written_does_not_stop_training(store, tmp_path):
    seen = []

    def block(event):
        seen.append(event)
        if event["event"] == "start":
            (tmp_path / "x" / "stage1" / "tensorboard").write_text("a file where the folder should be")

    results = run_training(
        store, name="x", stages=[1], runs=tmp_path, overrides=SMALL, device="cpu", track=["tensorboard"], on_event=block
    )
    assert len(results) == 1
    assert sum("tracker tensorboard failed" in event.get("message", "") for event in seen) == 1
