"""What trackers are told of a real run: names, steps, results, no point twice; and that no fault of theirs reaches the training."""

import json
import os
import signal
import threading

import pytest

from d2st.adapter.train import run_training
from d2st.adapter.train.track import events, tracked, worker
from d2st.cache.errors import RunError

SMALL = ("adapter.name=linear_probe", "optim.batch_size=4", "optim.epochs=3")


class Fake:
    """Keeps what it is told. `faults`: where to raise."""

    view = "look here"

    def __init__(self, faults=()):
        self.stages, self.points, self.closed = [], [], []
        self.faults = faults

    def __call__(self, stage):
        self._maybe("open")
        self.stages.append(stage)
        return self

    def log(self, points):
        self._maybe("log")
        self.points += points

    def close(self, outcome, result):
        self.closed.append((outcome, result))
        self._maybe("close")

    def _maybe(self, place):
        if place in self.faults:
            raise OSError(28, "No space left on device")


@pytest.fixture
def fakes(monkeypatch):
    """Trackers by name: put a `Fake` in."""
    made = {}
    monkeypatch.setattr(events, "find_opener", made.__getitem__)
    monkeypatch.setattr("d2st.adapter.train.run.refuse_missing", lambda names: None)
    monkeypatch.setattr(events, "STEP_EVERY_S", 0.0)
    return made


def go(store, runs, *, stages=(1,), track=("one",), overrides=SMALL, **options):
    return run_training(store, stages=stages, runs=runs, name="x", overrides=overrides, device="cpu", track=track, **options)


def test_curves_settings_and_results_of_every_stage(store, tmp_path, fakes):
    fake = fakes["one"] = Fake()
    seen = []
    results = go(store, tmp_path, stages=(1, 2), on_event=seen.append)
    assert [(stage.run, stage.number, stage.step) for stage in fake.stages] == [("x", 1, 0), ("x", 2, 0)]
    assert fake.stages[1].folder == tmp_path / "x" / "stage2"
    settings = fake.stages[0].settings
    assert settings["optim.epochs"] == 3
    assert settings["adapter.name"] == "linear_probe"
    assert settings["train_samples"] == results[0].train_samples
    first = [point for point in fake.points if point.kind == "epoch"][:3]
    steps = next(event["steps"] for event in seen if event["event"] == "start")
    assert [point.step for point in first] == [steps, 2 * steps, 3 * steps]
    lines = [json.loads(line) for line in (tmp_path / "x" / "stage1" / "metrics.jsonl").read_text().splitlines()]
    for point, line in zip(first, lines, strict=True):
        assert {name: value for name, value in point.values.items() if name.startswith("val/")} == {
            f"val/{name}": value for name, value in line["val"].items() if value is not None
        }
        assert point.values["train/loss"] == line["loss"]
    told = [event for event in seen if event["event"] == "step" and event["stage"] == 1]
    curve = [point for point in fake.points if point.kind == "step"][: len(told)]
    assert [point.step for point in curve] == list(range(1, 3 * steps + 1))
    assert [point.values["step/loss"] for point in curve] == [event["loss"] for event in told]
    assert [outcome for outcome, _ in fake.closed] == ["finished", "finished"]
    assert fake.closed[1][1]["value"] == results[1].value
    assert fake.closed[1][1]["epochs"] == 3
    assert sum(event.get("message") == "tracking stage 1: look here" for event in seen) == 1


def test_the_gap_is_part_of_the_result(fakes, tmp_path):
    fake = fakes["one"] = Fake()
    with tracked(["one", "one"], lambda event: None) as say:
        begin(say, tmp_path)
        say({"event": "end", "stage": 3, "value": 0.5, "init": None, "gap": {"before": {"probe_accuracy": 0.9}, "after": {}}})
    assert fake.closed == [("finished", {"value": 0.5, "gap/before/probe_accuracy": 0.9})]


def begin(say, runs, *, stage=1, done_epochs=0, done_steps=0):
    from d2st.adapter.train.recipe_file import load_recipe, to_toml

    folder = runs / "x" / f"stage{stage}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(to_toml(load_recipe(stage)))
    say({"event": "run", "name": "x", "folder": str(runs / "x"), "stages": [stage], "device": "cpu"})
    say({"event": "start", "stage": stage, "steps": 10, "epochs": 5, "done_epochs": done_epochs, "done_steps": done_steps})


def a_step(number, **values):
    return {"event": "step", "stage": 1, "epoch": 1, "epochs": 5, "step": number, "steps": 10, **values}


def test_steps_are_logged_once_a_second_and_numbers_that_are_none_left_out(fakes, tmp_path, monkeypatch):
    fake = fakes["one"] = Fake()
    now = [100.0]
    monkeypatch.setattr(events, "STEP_EVERY_S", 1.0)
    monkeypatch.setattr(events.time, "monotonic", lambda: now[0])
    with tracked(["one"], lambda event: None) as say:
        begin(say, tmp_path)
        for number in range(1, 11):
            say(a_step(number, loss=float("nan") if number == 6 else 1.0, lr=0.1, note=None, good=True))
            now[0] += 0.2
    assert [(point.step, sorted(point.values)) for point in fake.points] == [(1, ["step/loss", "step/lr"]), (6, ["step/lr"])]
    assert fake.closed == [("finished", {})]


@pytest.fixture(scope="module")
def plain(store, tmp_path_factory):
    """The stage of a run without trackers, and its result."""
    runs = tmp_path_factory.mktemp("plain")
    return runs / "x" / "stage1", go(store, runs, track=())[0]


@pytest.mark.parametrize("place", ["open", "log", "close"])
def test_a_tracker_that_fails_is_dropped_with_one_warning(store, plain, tmp_path, fakes, place):
    broken = fakes["broken"] = Fake(faults=(place,))
    sound = fakes["sound"] = Fake()
    seen = []
    (result,) = go(store, tmp_path, track=("broken", "sound"), on_event=seen.append)
    warnings = [event["message"] for event in seen if "failed" in event.get("message", "")]
    assert len(warnings) == 1
    assert "tracker broken failed" in warnings[0]
    assert "No space left" in warnings[0]
    assert sound.closed[0][0] == "finished"
    assert result.value == plain[1].value
    assert not broken.points or place == "close"
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "x" / "stage1" / name).read_bytes() == (plain[0] / name).read_bytes()


def test_a_tracker_that_hangs_is_left_behind(fakes, tmp_path, monkeypatch):
    release = threading.Event()

    class Slow(Fake):
        def close(self, outcome, result):
            release.wait(30)

    fakes["one"] = Slow()
    monkeypatch.setattr(worker, "JOIN_S", 0.1)
    seen = []
    with tracked(["one"], seen.append) as say:
        begin(say, tmp_path)
        say(a_step(1, loss=1.0))
        say({"event": "end", "stage": 1})
    release.set()
    assert "left behind" in seen[-1]["message"]


@pytest.mark.parametrize(("error", "outcome"), [(KeyboardInterrupt, "stopped"), (RunError, "failed")])
def test_a_stage_without_an_end_is_closed_as_what_it_is(fakes, tmp_path, error, outcome):
    fake = fakes["one"] = Fake()

    def training():
        with tracked(["one"], lambda event: None) as say:
            begin(say, tmp_path)
            say(a_step(1, loss=1.0))
            raise error("stop")

    with pytest.raises(error):
        training()
    assert fake.closed == [(outcome, {})]
    assert len(fake.points) == 1


def stop_at(epoch, step):
    def on_event(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (epoch, step):
            os.kill(os.getpid(), signal.SIGINT)

    return on_event


def test_a_tracker_that_comes_late_gets_the_epochs_so_far(store, tmp_path, fakes):
    late = fakes["one"] = Fake()
    with pytest.raises(KeyboardInterrupt):
        go(store, tmp_path, track=(), on_event=stop_at(3, 1))
    with (tmp_path / "x" / "stage1" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "los')  # torn by a kill
    go(store, tmp_path, resume=True)
    steps = late.stages[0].step // 2  # one step of epoch 3 is done
    assert [point.step for point in late.points if point.kind == "epoch"] == [steps, 2 * steps, 3 * steps]
    assert min(point.step for point in late.points if point.kind == "step") == 2 * steps + 2
    lines = (tmp_path / "x" / "stage1" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_finished_stage_is_not_tracked_again(store, tmp_path, fakes):
    fake = fakes["one"] = Fake()
    go(store, tmp_path)
    go(store, tmp_path, resume=True)
    assert len(fake.stages) == len(fake.closed) == 1
