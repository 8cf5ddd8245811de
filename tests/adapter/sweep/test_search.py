"""Who trains which trial, and what happens when somebody dies on the way. The training itself is played."""

import json
import os
import runpy
from contextlib import ExitStack
from pathlib import Path

import pytest

from d2st.adapter.sweep.check import Planner
from d2st.adapter.sweep.search import Search
from d2st.adapter.sweep.space_file import read_space
from d2st.adapter.sweep.study import Study
from d2st.adapter.train import rundir
from d2st.adapter.train.recipe_file import to_toml
from d2st.adapter.train.result import StageResult
from d2st.cache.claims import Claims
from d2st.cache.errors import RunError

TEXT = """
stage = 1
[set]
optim.epochs = 3
[sweep]
"optim.lr" = { low = 1e-4, high = 1e-2 }
"adapter.name" = ["linear_probe", "meanpool_mlp"]
[search]
sampler = "random"
pruner = "none"
"""


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    toys = runpy.run_path(str(Path(__file__).parents[1] / "train" / "conftest.py"))
    store = toys["make_store"](tmp_path_factory.mktemp("search") / "toy.d2st", frames=2, grid=(2, 2), channels=4)
    return Planner(store, store.samples())


@pytest.fixture
def enter(tmp_path, planner):
    """Gives processes of one sweep: each call is another one."""
    (tmp_path / "space.toml").write_text(TEXT, encoding="utf-8")
    space = read_space(tmp_path / "space.toml")
    with ExitStack() as stack:

        def enter(*, total=4, most=None, events=None):
            claims = stack.enter_context(Claims(tmp_path / "claims", purpose="build"))
            study = Study(tmp_path, space)
            say = (events if events is not None else []).append
            found = Search(
                tmp_path, study, space=space, planner=planner, claims=claims, total=total, most=most, init=None, on_event=say
            )
            found.claims, found.study = claims, study
            return found

        yield enter


def train(search, trial, *, value=0.7, epochs=3):
    """Play a trial to its end."""
    for epoch in range(1, epochs + 1):
        if not search.on_epoch(trial, {"epoch": epoch, "epochs": 3, "best": value * epoch / 3}):
            return search.on_end(trial, None)
    return search.on_end(trial, make_result(trial, value))


def make_result(trial, value):
    names = ("best", "metric", "best_epoch", "epochs", "ended", "train_samples", "val_samples", "parameters", "seconds", "init")
    return StageResult(stage=1, adapter="linear_probe", value=value, **dict.fromkeys(names, 0))


def write_result(trial, value, *, ended="all epochs"):
    """What a process leaves that is killed before it could tell the study."""
    trial.folder.mkdir(parents=True)
    document = {**vars(make_result(trial, value)), "ended": ended, "best": None}
    rundir.write_json(trial.folder / rundir.RESULT, document)


def kill(search):
    """As kill -9: nothing is let go, and the process is gone."""
    search.claims._presence._stop.set()
    (own,) = (path for path in search.claims.folder.glob("*.builder") if path.name == search.claims._presence.name)
    document = json.loads(own.read_bytes())
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    own.write_text(json.dumps({**document, "pid": gone}))


def test_a_study_is_done_trial_by_trial(enter):
    search = enter()
    first = search.propose(3)
    assert [trial.number for trial in first] == [0, 1, 2]
    assert [trial.folder.parts[-3:] for trial in first] == [("trials", f"000{n}", "stage1") for n in range(3)]
    assert search.propose(0) == []
    for trial in first:
        train(search, trial, value=0.6 + trial.number / 10)
    assert not search.is_over()
    (last,) = search.propose(9)
    train(search, last)
    assert search.is_over()
    assert search.propose(9) == []
    assert [row.value for row in search.study.rows()] == [0.6, 0.7, 0.8, 0.7]


def test_no_more_at_once_than_the_search_can_learn_from(enter):
    search = enter(most=2)
    first = search.propose(9)
    assert (len(first), search.propose(9)) == (2, [])
    train(search, first[0])
    assert len(search.propose(9)) == 1


def test_two_processes_never_share_a_trial(enter):
    one, other = enter(), enter()
    numbers = [trial.number for trial in (*one.propose(2), *other.propose(9), *one.propose(9))]
    assert numbers == [0, 1, 2, 3]
    assert other.others() == 2
    assert not one.is_over()


def test_a_dead_process_leaves_its_trials_to_the_next(enter):
    events = []
    dead = enter()
    begun = dead.propose(2)
    dead.on_epoch(begun[0], {"epoch": 1, "epochs": 3, "best": 0.5})
    values = {row.number: row.values for row in dead.study.rows()}
    kill(dead)
    heir = enter(events=events)
    taken = heir.propose(9)
    assert [trial.number for trial in taken] == [0, 1, 2, 3]
    assert all(trial.plan.recipe.optim.lr == values[trial.number]["optim.lr"] for trial in taken[:2])
    assert [event["resumed"] for event in events] == [True, False, False, False]
    for trial in taken:
        train(heir, trial)
    assert heir.is_over()


@pytest.mark.parametrize(("ended", "state"), [("all epochs", "complete"), ("pruned", "pruned")])
def test_what_a_folder_knows_is_not_trained_again(enter, ended, state):
    dead = enter(total=1)
    (trial,) = dead.propose(1)
    write_result(trial, 0.8, ended=ended)
    kill(dead)
    heir = enter(total=1)
    assert heir.propose(1) == []
    assert heir.is_over()
    assert (heir.study.rows()[0].state, heir.study.rows()[0].value) == (state, 0.8)


def test_what_another_trial_came_to_is_never_taken_for_it(enter, tmp_path):
    """As after an older journal was put back: the next trial has the number of one that drew something else."""
    dead = enter(total=1)
    (trial,) = dead.propose(1)
    write_result(trial, 0.8)
    other = trial.plan.recipe.model_copy(update={"seed": 5})
    (trial.folder / rundir.RECIPE).write_text(to_toml(other))
    rundir.write_json(trial.folder / rundir.FINGERPRINT, trial.plan.sources)
    kill(dead)
    heir = enter(total=1)
    assert heir.propose(1) == []
    (row,) = heir.study.rows()
    assert (row.state, row.value) == ("failed", None)
    assert "other settings than it began with: seed" in row.error


def test_a_trial_that_fails_says_why_and_the_others_go_on(enter, tmp_path):
    events = []
    search = enter(total=2, events=events)
    bad, good = search.propose(2)
    search.on_end(bad, RunError("a loss is not finite in step 3", fix="Lower the rate"))
    train(search, good)
    assert [row.state for row in search.study.rows()] == ["failed", "complete"]
    assert search.study.rows()[0].error == "a loss is not finite in step 3"
    kept = json.loads((tmp_path / "trials" / "0000" / "failed.json").read_text())
    assert kept == {"error": "a loss is not finite in step 3", "fix": "Lower the rate"}
    assert [event["state"] for event in events if event["event"] == "ended"] == ["failed", "complete"]


def test_a_pruned_trial_leaves_its_place(enter):
    search = enter(total=2)
    (trial,) = search.propose(1)
    search.on_end(trial, None)
    assert [trial.number for trial in search.propose(1)] == [1]
    assert search.study.rows()[0].state == "pruned"


def test_the_last_epoch_is_never_pruned(enter, monkeypatch):
    search = enter(total=1)
    (trial,) = search.propose(1)
    monkeypatch.setattr(search.study, "report", lambda *args, **values: False)
    assert not search.on_epoch(trial, {"epoch": 2, "epochs": 3, "best": 0.5})
    assert search.on_epoch(trial, {"epoch": 3, "epochs": 3, "best": 0.5})


def test_who_slept_while_its_trial_was_taken_stops(enter):
    sleeper = enter(total=1)
    (trial,) = sleeper.propose(1)
    kill(sleeper)
    (taken,) = enter(total=1).propose(1)
    assert taken.number == trial.number
    with pytest.raises(RunError, match="taken over") as raised:
        sleeper.on_epoch(trial, {"epoch": 1, "epochs": 3, "best": 0.5})
    assert "same command" in raised.value.fix
