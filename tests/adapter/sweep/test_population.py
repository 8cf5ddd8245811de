"""A trial in a population is the trial alone: same bits where it is computed alone, same numbers where it is stacked, whatever happens
to the others."""

import os
import signal

import pytest
import torch

from d2st.adapter.sweep import groups
from d2st.adapter.sweep.stack import Stack
from d2st.adapter.train.checkpoint import load_detector
from d2st.adapter.train.log import RunLog
from d2st.adapter.train.rundir import RESULT, read_json
from d2st.adapter.train.stage import train_stage
from d2st.cache import reader
from d2st.cache.errors import ConfigError, RunError, StoreError

FLOAT32 = "optim.precision=float32"
SMALL = "adapter.name=meanpool_mlp"
FILES = ("best.safetensors", "last.safetensors")

# all that can differ between trials of one lane, and all that has random numbers of its own
MIXED = (
    ["adapter.params={width=16, dropout=0.3}", "adapter.layers=['block_3']"],
    ["augment.brightness=0.1", "augment.interpolate=0.5", "loss.kind=focal"],
    ["optim.lr=3e-3", "optim.weight_decay=0.2", "optim.ema=0.9", "loss.label_smoothing=0.2", "loss.frame_weight=0"],
    ["data.frames=3", "augment.reverse=0.9"],
    ["adapter.name=linear_probe", "adapter.params={}"],
)
EVERY = ("optim.epochs=2", "optim.accumulate=2", FLOAT32)


def folder_bytes(trial, others):
    return [
        (trial.folder / name).read_bytes() == (others / trial.folder.relative_to(trial.folder.parents[1]) / name).read_bytes()
        for name in FILES
    ]


@pytest.fixture(scope="module")
def alone(store, make_trials, tmp_path_factory):
    """The folder of the mixed trials, each trained by `train_stage`."""
    path = tmp_path_factory.mktemp("alone")
    for trial in make_trials(path, [[*EVERY, *each] for each in MIXED]):
        train_stage(store, trial.plan.recipe, run_dir=trial.folder, init_checkpoint=None, resume=False, device="cpu")
    return path


@pytest.fixture
def mixed(make_trials, tmp_path):
    return make_trials(tmp_path, [[*EVERY, *each] for each in MIXED])


def test_one_by_one_every_trial_ends_with_the_very_bytes_of_the_same_trial_alone(always, run, mixed, alone):
    always("alone")
    ended, events = run(mixed)
    for trial in mixed:
        assert all(folder_bytes(trial, alone)), trial.number
        one, other = (
            RunLog(path).epochs() for path in (trial.folder, alone / trial.folder.relative_to(trial.folder.parents[1]))
        )
        drop = {"seconds", "samples_per_s"}
        assert [{k: v for k, v in record.items() if k not in drop} for record in one] == [
            {k: v for k, v in record.items() if k not in drop} for record in other
        ]
        assert ended[trial.number].value == read_json(trial.folder / RESULT)["value"]
    lanes = [event for event in events if event["event"] == "lane"]
    assert len(lanes) == 2  # one lane, two epochs
    assert {"trial", "loss", "epoch", "step"} <= next(event for event in events if event["event"] == "step").keys()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stacked_trials_end_with_the_same_numbers(always, run, store, make_trials, tmp_path, stage):
    sets = [[FLOAT32, f"optim.lr={lr}", f"optim.ema={ema}"] for lr, ema in ((1e-3, 0), (2e-3, 0.9))]
    if stage == 3:
        weights = ("align.supcon=0.5", "align.coral=1", "align.mmd=0.1", "align.consistency=0.3", "data.max_samples=16")
        sets = [[*each, *weights] for each in sets]
        sets[1].append("align.supcon=0")
    trials = make_trials(tmp_path / "together", sets, stage=stage)
    always("stacked")
    _, events = run(trials)
    assert all(group["stacked"] for event in events if event["event"] == "lane" for group in event["groups"])
    for trial in make_trials(tmp_path / "alone", sets, stage=stage):
        train_stage(store, trial.plan.recipe, run_dir=trial.folder, init_checkpoint=None, resume=False, device="cpu")
        logs = [RunLog(each.folder).epochs() for each in (trial, trials[trial.number])]
        for one, other in zip(*logs, strict=True):  # weights without a gradient but noise differ: AdamW makes steps of it
            assert other["losses"] == pytest.approx(one["losses"], abs=1e-4)
            assert other["val"] == pytest.approx(one["val"], abs=1e-4)


def test_frames_are_read_once_for_all(always, run, make_trials, tmp_path, monkeypatch):
    read, counted = reader.ArrayReader.read, []

    def counting(self, rows, out):
        counted.append(len(rows))
        return read(self, rows, out)

    monkeypatch.setattr(reader.ArrayReader, "read", counting)
    always("stacked")
    sums = []
    for count in (1, 3):
        counted.clear()
        run(make_trials(tmp_path / str(count), [[SMALL, f"optim.lr={1e-3 * (i + 1)}"] for i in range(count)]))
        sums.append(sum(counted))
    assert sums[0] == sums[1] > 0


def test_a_pruned_trial_leaves_and_newcomers_take_the_free_places_together(always, run, make_trials, tmp_path):
    always("alone")
    trials = make_trials(tmp_path, [["optim.epochs=2", SMALL, f"optim.lr={1e-3 * (i + 1)}"] for i in range(5)])
    queue, asked = list(trials), []

    def propose(count):
        asked.append(count)
        taken, queue[:] = queue[:count], queue[count:]
        return taken

    ended, events = run([], propose=propose, capacity=3, on_epoch=lambda trial, record: trial.number not in (0, 1))
    assert ended[0] is ended[1] is None
    assert read_json(trials[0].folder / RESULT)["ended"] == "pruned"
    assert (trials[0].folder / "best.safetensors").is_file()
    assert [ended[number].epochs for number in (2, 3, 4)] == [2, 2, 2]
    together = [
        (event["epoch"], [n for group in event["groups"] for n in group["trials"]])
        for event in events
        if event["event"] == "lane"
    ]
    assert together == [(1, [0, 1, 2]), (2, [2]), (1, [3, 4]), (2, [3, 4])]
    assert asked[:2] == [3, 2]


def test_a_trial_that_diverges_fails_alone(always, run, make_trials, tmp_path):
    always("stacked")
    sets = [[FLOAT32, f"optim.lr={lr}", "optim.clip_norm=0", "optim.warmup_ratio=0"] for lr in (1e-3, 1e30, 2e-3)]
    ended, _ = run(make_trials(tmp_path, sets))
    assert isinstance(ended[1], RunError)
    assert "not finite" in str(ended[1]) or "NaN" in str(ended[1])
    assert ended[0].epochs == ended[2].epochs == 1


def test_out_of_memory_halves_the_group_and_nothing_else_changes(always, run, make_trials, tmp_path, monkeypatch):
    always("stacked")
    sets = [[FLOAT32, SMALL, f"optim.lr={1e-3 * (i + 1)}", "optim.accumulate=2"] for i in range(3)]
    whole = make_trials(tmp_path / "whole", sets)
    run(whole)
    backward, calls = Stack.backward, []

    def small(self, loss):
        calls.append(len(self._members))
        if len(calls) > 1 and len(self._members) > 2:  # in the middle of a step
            raise torch.OutOfMemoryError("no room")
        backward(self, loss)

    monkeypatch.setattr(Stack, "backward", small)
    halved = make_trials(tmp_path / "halved", sets)
    _, events = run(halved)
    assert any("memory ran out with 3 at once; going on with 2" in event.get("message", "") for event in events)
    assert calls[:3] == [3, 3, 2]  # and the third one by itself
    for one, other in zip(whole, halved, strict=True):
        pair = [load_detector(trial.folder / "last.safetensors")[0].state_dict() for trial in (one, other)]
        for name, value in pair[0].items():
            torch.testing.assert_close(pair[1][name], value, atol=1e-5, rtol=1e-4)


def test_memory_that_runs_out_in_validation_ends_nothing(always, run, make_trials, tmp_path, monkeypatch):
    always("stacked")
    call = Stack.__call__

    def small(self, *batch):
        if torch.is_inference_mode_enabled():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return call(self, *batch)

    monkeypatch.setattr(Stack, "__call__", small)
    ended, events = run(make_trials(tmp_path, [[FLOAT32, SMALL, f"optim.lr={1e-3 * (i + 1)}"] for i in range(2)]))
    assert [result.epochs for result in ended.values()] == [1, 1]
    assert sum("in validation; going on one by one" in event.get("message", "") for event in events) == 1


def test_what_was_measured_of_small_batches_says_nothing_of_large_ones(always, run, make_trials, tmp_path, monkeypatch):
    always("alone")
    kinds = set()
    monkeypatch.setattr(groups.Choices, "most", lambda self, kind: kinds.add(kind))
    run(
        make_trials(tmp_path, [[SMALL, f"optim.batch_size={size}", f"optim.lr={lr}"] for size in (2, 4) for lr in (1e-3, 2e-3)])
    )
    assert len(kinds) == 2


def test_networks_that_can_not_be_stacked_go_one_by_one_and_it_is_said(run, make_trials, tmp_path, monkeypatch):
    def refuse(self, *batch):
        raise RuntimeError("no rule for this operator")

    monkeypatch.setattr(Stack, "__call__", refuse)
    ended, events = run(make_trials(tmp_path, [[SMALL, f"optim.lr={1e-3 * (i + 1)}"] for i in range(2)]))
    assert [result.epochs for result in ended.values()] == [1, 1]
    assert sum("can't be stacked: no rule" in event.get("message", "") for event in events) == 1


def test_what_is_faster_is_measured_and_said(run, make_trials, tmp_path):
    trials = make_trials(tmp_path, [[SMALL, f"optim.lr={1e-3 * (i + 1)}", "optim.batch_size=1"] for i in range(2)])
    _, events = run(trials)
    said = [event["message"] for event in events if "of the time" in event.get("message", "")]
    assert len(said) == 1
    assert said[0] in (trials[0].folder / "log.txt").read_text().replace("with trials", "trials")


class Killed(BaseException):
    """The process is gone."""


def interrupted(epoch, step, how):
    def on_event(event):
        if event["event"] == "pass" and (event["epoch"], event["step"]) == (epoch, step):
            how()

    return on_event


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("error", "how", "step"),
    [(KeyboardInterrupt, lambda: os.kill(os.getpid(), signal.SIGINT), 1), (Killed, kill, 1)],
    ids=["stopped", "killed"],
)
def test_an_interrupted_population_goes_on_to_the_same_end(always, run, mixed, alone, error, how, step):
    always("alone")
    before = signal.getsignal(signal.SIGINT)
    mixed = mixed[:3]
    with pytest.raises(error):
        run(mixed, on_event=interrupted(2, step, how))
    assert signal.getsignal(signal.SIGINT) is before
    assert not any((trial.folder / RESULT).exists() for trial in mixed)
    ended, _ = run(mixed)
    assert len(ended) == len(mixed)
    for trial in mixed:
        assert all(folder_bytes(trial, alone)), trial.number
    again, _ = run(mixed)  # finished: just told
    assert {number: result.value for number, result in again.items()} == {n: result.value for n, result in ended.items()}


def test_a_wish_to_stop_saves_and_returns(always, run, make_trials, tmp_path):
    always("alone")
    trials = make_trials(tmp_path, [[SMALL], [SMALL, "optim.lr=2e-3"]])
    passes = []
    ended, _ = run(
        trials, on_event=lambda event: passes.append(event) if event["event"] == "pass" else None, stop=lambda: bool(passes)
    )
    assert ended == {}
    assert len(passes) == 1
    assert all((trial.folder / "last.state.safetensors").is_file() for trial in trials)


def test_a_folder_of_another_recipe_is_a_failed_trial(run, make_trials, tmp_path, always):
    always("alone")
    (first,) = make_trials(tmp_path, [[SMALL]])
    run([first])
    other, sound = make_trials(tmp_path, [[SMALL, "optim.lr=9e-3"], [SMALL]])
    ended, _ = run([other, sound])
    assert "other settings" in str(ended[0])
    assert ended[1].epochs == 1


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("d2st.cache.reader.ArrayReader.read", StoreError("a shard is damaged")),
        ("d2st.cache.loader.choose_memory", ConfigError("no room")),
    ],
)
def test_what_is_wrong_with_the_cache_is_no_failure_of_a_trial(run, make_trials, tmp_path, monkeypatch, where, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(where, fail)
    ended = []
    with pytest.raises(StoreError, match=error.message):  # of the whitening, before the first epoch
        run(make_trials(tmp_path, [["optim.lr=1e-3"], ["optim.lr=2e-3"]]), in_memory=True, on_event=ended.append)
    assert not any(event["event"] == "epoch" for event in ended)


def test_in_memory_ends_the_same(always, run, mixed, alone):
    always("alone")
    mixed = mixed[:1] + mixed[3:]  # of other layers, and of none
    run(mixed, in_memory=True)
    for trial in mixed:
        assert all(folder_bytes(trial, alone)), trial.number


def test_groups_are_cut_to_what_fits(always, run, make_trials, tmp_path, monkeypatch):
    always("stacked")
    monkeypatch.setattr(groups.Choices, "most", lambda self, kind: 2)
    _, events = run(make_trials(tmp_path, [[SMALL, f"optim.lr={1e-3 * (i + 1)}"] for i in range(3)]))
    (lane,) = [event for event in events if event["event"] == "lane"]
    assert [group["trials"] for group in lane["groups"]] == [[0, 1], [2]]
