"""The best few trials once more, with seeds that the search has not seen.

A search picks the highest of many noisy scores, so the score of what it picks is too high; what the same recipe scores with new seeds is
not. The repeats are ordinary runs, claimed like trials; their folders alone say which are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2st.adapter.sweep.check import Planner
from d2st.adapter.sweep.record import seed_folder
from d2st.adapter.sweep.search import FAILED, keep_claim, keep_failure
from d2st.adapter.sweep.space import Space
from d2st.adapter.sweep.study import Row
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.train import rundir
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.result import StageResult
from d2st.adapter.train.trainer import Event
from d2st.cache.claims import Claims
from d2st.cache.errors import D2stError

__all__ = ["FINALISTS", "Repeat", "Repeats", "finalists", "plan_repeats"]

FINALISTS = 3


@dataclass(frozen=True)
class Repeat:
    """A recipe to train with another seed. `number` is its own, after those of all trials; `of` is the trial's."""

    number: int
    of: int
    seed: int
    recipe: Recipe
    folder: Path  # the run's

    @property
    def stage(self) -> Path:
        """The stage's folder."""
        return self.folder / f"stage{self.recipe.stage}"

    def is_over(self) -> bool:
        """Whether it is finished, or failed."""
        return (self.stage / rundir.RESULT).is_file() or (self.folder / FAILED).is_file()


def finalists(rows: Sequence[Row], count: int = FINALISTS) -> list[Row]:
    """The best finished trials, the best first, each set of values once."""
    found: list[Row] = []
    for row in sorted((row for row in rows if row.state == "complete"), key=lambda row: (-(row.value or 0.0), row.number)):
        if all(row.values != other.values for other in found):
            found.append(row)
    return found[:count]


def plan_repeats(folder: Path, space: Space, best: Sequence[Row], *, seeds: int, first: int) -> list[Repeat]:
    """Each of the best with `seeds` further seeds: those after the recipe's own. first: the number of the first one."""
    found = []
    for row in best:
        recipe = space.recipe(row.values)
        for seed in range(recipe.seed + 1, recipe.seed + 1 + seeds):
            again = recipe.model_copy(update={"seed": seed})
            found.append(Repeat(first + len(found), row.number, seed, again, seed_folder(folder, row.number, seed)))
    return found


class Repeats:
    """What `run_population` asks and tells about repeats; as `Search`."""

    def __init__(
        self, repeats: Sequence[Repeat], *, planner: Planner, claims: Claims, init: Path | None, on_event: Event
    ) -> None:
        self._repeats = {repeat.number: repeat for repeat in repeats}
        self._planner, self._claims, self._init, self._say = planner, claims, init, on_event
        self._live: set[int] = set()

    def propose(self, count: int) -> list[Trial]:
        """Repeats that nobody has done or is at."""
        found: list[Trial] = []
        # seed by seed: those of one seed read the same batches
        for repeat in sorted(self._repeats.values(), key=lambda repeat: (repeat.seed, repeat.number)):
            if len(found) == count:
                break
            if repeat.number in self._live or repeat.is_over() or not self._claims.take(repeat.folder.name):
                continue
            if repeat.is_over():  # while we looked
                self._claims.release(repeat.folder.name)
                continue
            self._say({"event": "trial", "number": repeat.number, "of": repeat.of, "seed": repeat.seed, "resumed": False})
            trial = Trial(repeat.number, self._planner.plan(repeat.recipe), repeat.stage, self._init)
            self._live.add(repeat.number)
            found.append(trial)
        return found

    def on_epoch(self, trial: Trial, record: dict[str, Any]) -> bool:
        """Repeats are never pruned. Raises RunError as `Search.on_epoch` does."""
        keep_claim(self._claims, self._repeats[trial.number].folder.name, trial.folder)
        return True

    def on_end(self, trial: Trial, outcome: StageResult | D2stError | None) -> None:
        """Let go of a repeat; its folder says what it came to."""
        repeat = self._repeats[trial.number]
        said: dict[str, Any] = {"state": "complete", "value": getattr(outcome, "value", None), "error": ""}
        if isinstance(outcome, D2stError):
            keep_failure(repeat.folder, outcome)
            said = {"state": "failed", "value": None, "error": outcome.message}
        self._live.discard(trial.number)
        self._claims.release(repeat.folder.name)
        self._say({"event": "ended", "number": trial.number, **said})

    def is_over(self) -> bool:
        """Whether all repeats are done, by whomever."""
        return all(repeat.is_over() for repeat in self._repeats.values())

    def others(self) -> int:
        """How many are left for other processes."""
        return sum(not repeat.is_over() and number not in self._live for number, repeat in self._repeats.items())
