"""The trainer's small store, and trials of it."""

import importlib.util
from pathlib import Path

import pytest

from d2st.adapter.sweep.choices import Choices
from d2st.adapter.sweep.population import run_population
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.result import StageResult


def _trainer_fixtures():
    spec = importlib.util.spec_from_file_location("trainer_stores", Path(__file__).parents[1] / "train" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_store = _trainer_fixtures().make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("sweep") / "toy.d2st", images=10, videos=10, frames=6)


@pytest.fixture
def always(monkeypatch):
    """Call with "alone" or "stacked": that is how every group is computed."""

    def fix(mode):
        monkeypatch.setattr(Choices, "mode", lambda self, kind: "alone" if kind in self._refused else mode)
        monkeypatch.setattr(Choices, "settled", lambda self, kind: True)

    return fix


BASE = (
    'start="scratch"',
    "optim.epochs=1",
    "optim.batch_size=3",
    "adapter.params={width=16}",
    "optim.patience=0",
    "optim.rates={}",
)


@pytest.fixture(scope="session")
def make_trials(store):
    """Trials number 0, 1, ... of a stage in folders under `path`, one for each list of changes."""
    samples = store.samples()

    def make(path, sets, *, stage=2, base=BASE):
        recipes = [load_recipe(stage, [*base, *each]) for each in sets]
        plans = [plan_stage(store, recipe, samples) for recipe in recipes]
        return [Trial(i, plan, path / f"{i:04d}" / f"stage{stage}") for i, plan in enumerate(plans)]

    return make


@pytest.fixture
def run(store):
    """Train trials as one population; gives what it ended with, by number, and the events."""

    def go(trials, *, on_epoch=lambda trial, record: True, **options):
        queue, ended, events = list(trials), {}, []
        watch = options.pop("on_event", lambda event: None)

        def propose(count):
            taken, queue[:] = queue[:count], queue[count:]
            return taken

        def on_event(event):
            events.append(event)
            watch(event)

        run_population(
            store,
            propose=options.pop("propose", propose),
            on_epoch=on_epoch,
            on_end=lambda trial, outcome: ended.__setitem__(trial.number, outcome),
            device="cpu",
            on_event=on_event,
            **options,
        )
        return ended, events

    return go


@pytest.fixture(scope="session")
def is_result():
    return lambda outcome: isinstance(outcome, StageResult)
