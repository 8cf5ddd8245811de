"""One process's part in a sweep: it takes trials, has them trained together, and writes down what becomes of them.

Every trial has one owner (`d2st.cache.claims`). Who looks for work first takes up what dead processes left, from its last epoch on, and
only then asks for something new. A trial's folder says what happened before the study does, so a process that is killed between the two
loses nothing.
"""

from pathlib import Path
from typing import Any

from d2st.adapter.sweep.check import Planner
from d2st.adapter.sweep.population import PRUNED
from d2st.adapter.sweep.record import trial_folder
from d2st.adapter.sweep.space import Space
from d2st.adapter.sweep.study import Row, Study
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.train import rundir
from d2st.adapter.train.result import StageResult, read_result
from d2st.adapter.train.stage import refuse_other_run
from d2st.adapter.train.trainer import Event
from d2st.cache.claims import Claims
from d2st.cache.errors import D2stError, RunError, StoreError

__all__ = ["FAILED", "Search", "keep_claim", "keep_failure"]

FAILED = "failed.json"  # beside the stage's folder, as what was trained is still good to look at


class Search:
    """What `run_population` asks and tells about the trials of a study.

    Args:
        total: trials of the whole study. most: trials here at once; None sets no limit. init: the checkpoint that all start from.
        claims: entered.
    """

    def __init__(
        self,
        folder: Path,
        study: Study,
        *,
        space: Space,
        planner: Planner,
        claims: Claims,
        total: int,
        most: int | None,
        init: Path | None,
        on_event: Event,
    ) -> None:
        self._folder, self._study, self._space, self._planner = folder, study, space, planner
        self._claims, self._total, self._most, self._init, self._say = claims, total, most, init, on_event
        self._live: set[int] = set()

    def propose(self, count: int) -> list[Trial]:
        """Trials to train now: left-over ones first, then new ones; none when all are taken."""
        found: list[Trial] = []
        count = count if self._most is None else min(count, self._most - len(self._live))
        with self._study.exclusive():
            for row in self._study.rows():
                if len(found) < count and row.state == "running" and row.number not in self._live:
                    found += self._take(row)
            while len(found) < count:
                rows = self._study.ask(count - len(found), total=self._total)
                if not rows:
                    break
                for row in rows:
                    found += self._take(row)
        return found

    def on_epoch(self, trial: Trial, record: dict[str, Any]) -> bool:
        """Report an epoch; False when the trial is not worth going on with.

        Raises:
            RunError: we slept for so long that another process has taken the trial over.
        """
        keep_claim(self._claims, _key(trial.number), trial.folder)
        keep = self._study.report(trial.number, epoch=record["epoch"], value=record["best"])
        return keep or record["epoch"] >= record["epochs"]

    def on_end(self, trial: Trial, outcome: StageResult | D2stError | None) -> None:
        """Write down how a trial ended."""
        if isinstance(outcome, StageResult):
            self._end(trial.number, "complete", value=outcome.value)
        elif outcome is None:
            self._end(trial.number, "pruned")
        else:
            keep_failure(trial.folder.parent, outcome)
            self._end(trial.number, "failed", error=outcome.message)
        self._live.discard(trial.number)
        self._claims.release(_key(trial.number))

    def is_over(self) -> bool:
        """Whether all trials of the study have ended, ours and others'."""
        rows = self._study.rows()
        total = self._total if self._study.most is None else min(self._total, self._study.most)
        return len(rows) >= total and all(row.state != "running" for row in rows)

    def others(self) -> int:
        """How many trials other processes have left to do."""
        return sum(row.state == "running" and row.number not in self._live for row in self._study.rows())

    def _take(self, row: Row) -> list[Trial]:
        """The trial, if it is ours from now on and there is something to train."""
        if not self._claims.take(_key(row.number)):
            return []
        row = self._study.row(row.number)  # it may have ended before we took it
        folder = trial_folder(self._folder, row.number)
        if row.state == "running":
            try:
                recipe = self._space.recipe(row.values)
                trial = Trial(row.number, self._planner.plan(recipe), folder / f"stage{recipe.stage}", self._init)
                # of an older journal that was put back, it would be another trial's result
                refuse_other_run(trial.folder, trial.plan)
            except StoreError:
                raise
            except D2stError as error:
                keep_failure(folder, error)
                self._end(row.number, "failed", error=error.message)
            else:
                if not self._settled(row, folder):
                    self._say({"event": "trial", "number": row.number, "values": row.values, "resumed": bool(row.epochs)})
                    self._live.add(row.number)
                    return [trial]
        self._claims.release(_key(row.number))
        return []

    def _settled(self, row: Row, folder: Path) -> bool:
        """Whether the folder of a left-over trial knows how it ended; then the study does too from here on."""
        stage = folder / f"stage{self._space.base.stage}"
        if (folder / FAILED).is_file():
            self._end(row.number, "failed", error=rundir.read_json(folder / FAILED)["error"])
        elif (stage / rundir.RESULT).is_file():
            result = read_result(stage)
            if result.epochs not in row.epochs:  # a pruned trial is worth what it reported last
                self._study.report(row.number, epoch=result.epochs, value=result.value)
            self._end(row.number, "pruned" if result.ended == PRUNED else "complete", value=result.value)
        else:
            return False
        return True

    def _end(self, number: int, state: str, *, value: float | None = None, error: str = "") -> None:
        if state == "complete" and value is not None:
            self._study.finish(number, value)
        elif state == "pruned":
            self._study.prune(number)
        else:
            self._study.fail(number, error)
        self._say({"event": "ended", "number": number, "state": state, "value": value, "error": error})


def keep_claim(claims: Claims, key: str, folder: Path) -> None:
    """Raise RunError when a claim of ours was taken over."""
    if not claims.still_mine(key):
        raise RunError(
            f"this process was silent for so long that another one has taken over {folder.parent}",
            fix="Run the same command again: it joins the sweep",
        )


def keep_failure(folder: Path, error: D2stError) -> None:
    """Write down why nothing more will come of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write_json(folder / FAILED, {"error": error.message, "fix": error.fix})


def _key(number: int) -> str:
    return f"trial-{number:04d}"
