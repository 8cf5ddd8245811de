"""A run that is stopped and resumed ends with the very same bytes as one that never stopped; what can't be resumed is refused."""

import os
import signal

import polars as pl
import pytest

from d2st.adapter.train import fit, load_recipe, run_training
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.stage import refuse_other_run
from d2st.cache.errors import ConfigError, RunError


class Killed(BaseException):
    """No signal that could be caught: the process is gone."""


# dropout draws from torch's generator, EMA and accumulation have state of their own, augmentation draws for every batch
TRICKY = (
    "adapter.params={width=16, dropout=0.3}",
    "optim.batch_size=4",
    "optim.accumulate=2",
    "optim.ema=0.9",
    "optim.epochs=3",
    "optim.precision=bfloat16",
    "augment.brightness=0.1",
    "augment.interpolate=0.5",
)
FILES = ("best.safetensors", "last.safetensors")


def go(store, runs, name, *, stages=(1,), overrides=TRICKY, **options):
    return run_training(store, stages=stages, runs=runs, name=name, overrides=overrides, device="cpu", **options)


def stop_at(epoch, step):
    """An observer that sends Ctrl-C at one step, as a user would."""

    def on_event(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (epoch, step):
            os.kill(os.getpid(), signal.SIGINT)

    return on_event


def kill_at(stage, epoch, step):
    def on_event(event):
        if event["event"] == "step" and (event["stage"], event["epoch"], event["step"]) == (stage, epoch, step):
            raise Killed

    return on_event


def same(runs, one, other, stage):
    for name in FILES:
        assert (runs / one / f"stage{stage}" / name).read_bytes() == (runs / other / f"stage{stage}" / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A folder of runs with one that was never stopped."""
    runs = tmp_path_factory.mktemp("runs")
    go(store, runs, "whole", stages=(1, 2, 3))
    return runs


def test_in_memory_ends_the_same(store, whole, tmp_path):
    go(store, tmp_path, "whole", stages=(1, 2, 3), in_memory=True)  # of the same name, which checkpoints remember
    for stage in (1, 2, 3):
        for name in FILES:
            place = f"whole/stage{stage}/{name}"
            assert (tmp_path / place).read_bytes() == (whole / place).read_bytes(), place


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 2), (2, 3), (3, 3)])
def test_stopped_at_any_step_it_ends_the_same(store, whole, epoch, step):
    name = f"stopped{epoch}{step}"
    with pytest.raises(KeyboardInterrupt):
        go(store, whole, name, on_event=stop_at(epoch, step))
    assert not (whole / name / "stage1" / "result.json").exists()
    result = go(store, whole, name, resume=True, overrides=())[0]  # its own recipe is used
    assert result.epochs == 3
    same(whole, "whole", name, 1)
    lines = [(whole / run / "stage1" / "metrics.jsonl").read_text().splitlines() for run in ("whole", name)]
    assert len(lines[0]) == len(lines[1]) == 3


def test_stopped_in_a_later_stage_all_of_them_end_the_same(store, whole):
    events = []
    stop = stop_at(2, 1)

    def on_event(event):
        events.append(event)
        if event.get("stage") == 3:
            stop(event)

    with pytest.raises(KeyboardInterrupt):
        go(store, whole, "later", stages=(1, 2, 3), on_event=on_event)
    results = go(store, whole, "later", stages=(1, 2, 3), resume=True)
    assert [result.init for result in results] == [None, "later/stage1", "later/stage2"]
    # the header names the run that a stage began from; the weights must not differ
    for stage in (1, 2, 3):
        for name in FILES:
            assert tensors(whole / f"whole/stage{stage}/{name}") == tensors(whole / f"later/stage{stage}/{name}"), (stage, name)


def test_changes_that_a_later_stage_would_lose_are_told(store, whole):
    class Told(Exception):
        """The run need go no further."""

    def notes(stages, overrides, **options):
        said = []

        def on_event(event):
            said.append(event)
            if event["event"] == "start":
                raise Told

        with pytest.raises(Told):
            go(store, whole, "half", stages=stages, overrides=overrides, on_event=on_event, **options)
        return [event["message"] for event in said if event["event"] == "note"]

    changed = ("optim.epochs=1", "optim.batch_size=4")
    go(store, whole, "half", overrides=changed)
    assert not any("begun with" in note for note in notes((1, 2), changed, resume=True))
    (note, *_) = notes((1, 2, 3), (), resume=True)
    assert note.startswith("stage 3 will begin without what this run was begun with")


def test_another_precision_than_it_began_with_is_told(store, whole):
    with pytest.raises(KeyboardInterrupt):
        go(store, whole, "moved", on_event=stop_at(3, 1))
    file = whole / "moved" / "stage1" / "environment.json"
    file.write_text(file.read_text().replace('"precision": "bfloat16"', '"precision": "float32"'))
    events = []
    go(store, whole, "moved", resume=True, on_event=events.append)
    said = [event["message"] for event in events if event["event"] == "note"]
    assert any("stage 1: begun in float32, goes on in bfloat16" in message for message in said)


def tensors(path):
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_killed_without_a_chance_to_save_it_goes_on_from_the_last_epoch(store, whole):
    with pytest.raises(Killed):
        go(store, whole, "killed", on_event=kill_at(1, 3, 2))
    go(store, whole, "killed", resume=True)
    same(whole, "whole", "killed", 1)


def test_killed_within_an_epoch_of_stage_2_it_goes_on_from_its_last_save_to_the_same_stage_3(store, whole, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY_S", -1.0)  # after each step; the one in which it dies is lost
    with pytest.raises(Killed):
        go(store, whole, "middle", stages=(1, 2, 3), on_event=kill_at(2, 2, 2))
    monkeypatch.undo()
    began = []
    go(store, whole, "middle", stages=(1, 2, 3), resume=True, on_event=began.append)
    (start,) = [event for event in began if event["event"] == "start" and event["stage"] == 2]
    assert (start["done_epochs"], start["done_steps"]) == (1, 1)
    for stage in (2, 3):
        for name in FILES:
            assert tensors(whole / f"whole/stage{stage}/{name}") == tensors(whole / f"middle/stage{stage}/{name}"), (
                stage,
                name,
            )


def test_early_stopping_is_resumed_too(store, tmp_path):
    patient = [*TRICKY, "optim.epochs=6", "optim.patience=2", "optim.lr=1e-9", "optim.precision=float32"]  # nothing gets better
    whole = go(store, tmp_path, "whole", overrides=patient)[0]
    assert (whole.epochs, whole.ended) == (whole.best_epoch + 2, "no better epoch in 2")
    with pytest.raises(KeyboardInterrupt):
        go(store, tmp_path, "stopped", overrides=patient, on_event=stop_at(whole.epochs, 1))
    again = go(store, tmp_path, "stopped", overrides=(), resume=True)[0]
    assert (again.epochs, again.best_epoch, again.ended) == (whole.epochs, whole.best_epoch, whole.ended)
    same(tmp_path, "whole", "stopped", 1)


def test_a_finished_run_gives_its_result_again(store, whole):
    before = (whole / "whole/stage1/last.safetensors").stat().st_mtime_ns
    again = go(store, whole, "whole", resume=True)[0]
    assert again.epochs == 3
    assert (whole / "whole/stage1/last.safetensors").stat().st_mtime_ns == before


def test_other_settings_or_samples_can_not_be_slipped_in(store, whole):
    with pytest.raises(RunError, match=r"optim\.lr"):
        go(store, whole, "whole", resume=True, overrides=["optim.lr=1e-5"])
    fewer = store.manifest().head(30)
    with pytest.raises(RunError, match="manifest's samples"):
        go(store, whole, "whole", resume=True, manifest=fewer)
    with pytest.raises(ConfigError, match="which run"):
        go(store, whole, None, resume=True)


@pytest.mark.parametrize("column", ["start", "frames_cached", "label", "split"])
def test_samples_that_lie_elsewhere_are_others(store, whole, column):
    samples, recipe = store.samples(), load_recipe(whole / "whole/stage1/recipe.toml")
    refuse_other_run(whole / "whole/stage1", plan_stage(store, recipe, samples))
    one = pl.col("sample_id") == samples["sample_id"][0]
    other = (
        pl.lit("val", samples.schema["split"]) if column == "split" else (1 - pl.col(column)).abs().cast(samples.schema[column])
    )
    changed = samples.with_columns(pl.when(one).then(other).otherwise(column).alias(column))
    assert not changed.equals(samples)
    with pytest.raises(RunError, match="their place in the cache"):
        refuse_other_run(whole / "whole/stage1", plan_stage(store, recipe, changed))


def test_resuming_what_never_began_begins_it(store, whole):
    go(store, whole, "fresh", resume=True)
    same(whole, "whole", "fresh", 1)


def test_another_seed_gives_other_weights(store, whole):
    go(store, whole, "seeded", seed=1)
    assert (whole / "seeded/stage1/last.safetensors").read_bytes() != (whole / "whole/stage1/last.safetensors").read_bytes()


def test_signals_are_given_back(store, whole):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    go(store, whole, "whole", resume=True)
    go(store, whole, "quiet")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
