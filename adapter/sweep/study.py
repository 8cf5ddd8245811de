"""The memory of a sweep: an Optuna study in a journal file, which many processes and machines share.

A trial is proposed in memory and then written as one record, so that a process killed at any instant leaves a trial that is whole or none.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from d2st.adapter.sweep.importance import importances
from d2st.adapter.sweep.journal import JOURNAL, lock_of, locked, mend, open_study
from d2st.adapter.sweep.propose import NAME, decoded, distributions, make_pruner, propose
from d2st.adapter.sweep.space import Choice, Space
from d2st.cache.errors import ConfigError

__all__ = ["Row", "Study", "refuse_without_optuna"]

STATES = {"RUNNING": "running", "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Row:
    """A trial as the study knows it.

    Attributes:
        values: what it drew, by key.
        epochs: the best validation AUC up to each epoch, by its number.
        value: the best validation AUC of a trial that has ended; None while it runs, or if it failed.
        error: why it failed.
    """

    number: int
    state: State
    values: dict[str, Any]
    epochs: dict[int, float]
    value: float | None
    error: str | None


def refuse_without_optuna() -> None:
    """Raise ConfigError when Optuna is not installed."""
    if find_spec("optuna") is None:
        raise ConfigError("a sweep needs the package optuna, which is not installed", fix='Run pip install "d2st[sweep]"')


class Study:
    """The trials of a sweep. Several processes may use it at once; each asks inside `exclusive`.

    Args:
        folder: the sweep's, where the journal is or will be.

    Raises:
        RunError: the journal is damaged.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._path = space, folder / JOURNAL
        self._lock = lock_of(folder / "proposals")
        self._grid = space.grid() if space.sampler == "grid" else None
        self._pruner = make_pruner(space)
        with self.exclusive():
            mend(self._path)
            self._storage, self._study = open_study(self._path, self._pruner)

    @property
    def most(self) -> int | None:
        """How many trials there can be: those of the grid; None where there is no end."""
        return None if self._grid is None else len(self._grid)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else asks meanwhile."""
        with locked(self._lock):
            yield

    def rows(self) -> list[Row]:
        """All trials, by number."""
        return [self._row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def row(self, number: int) -> Row:
        """One trial, as it is now."""
        return self._row(self._storage.get_trial(self._id(number)))

    def ask(self, count: int, *, total: int) -> list[Row]:
        """Up to `count` new trials, as long as the study has fewer than `total`."""
        from optuna.trial import TrialState, create_trial

        known = self._study.get_trials(deepcopy=False)
        count = min(count, (total if self.most is None else min(total, self.most)) - len(known))
        if count <= 0:
            return []
        if self._grid is None:
            drawn = propose(self._space, known, count, pruner=self._pruner)
        else:
            drawn = [self._encoded(values) for values in self._grid[len(known) : len(known) + count]]
        token, known_axes = secrets.token_hex(8), distributions(self._space)
        for params in drawn:
            own = {key: known_axes[key] for key in params}
            self._study.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=own, user_attrs={"asked": token})
            )
        found = self._study.get_trials(deepcopy=False)
        return [self._row(trial) for trial in found if trial.user_attrs.get("asked") == token]

    def report(self, number: int, *, epoch: int, value: float) -> bool:
        """Write down how far a trial is; returns whether it is worth going on with."""
        trial_id = self._id(number)
        self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        return not self._pruner.prune(self._study, self._storage.get_trial(trial_id))

    def finish(self, number: int, value: float) -> None:
        """A trial has trained to its end."""
        self._study.tell(number, value, skip_if_finished=True)

    def prune(self, number: int) -> None:
        """A trial was given up."""
        self._end(number, "PRUNED")

    def fail(self, number: int, error: str) -> None:
        """A trial ended by an error."""
        if self.row(number).state == "running":
            self._storage.set_trial_user_attr(self._id(number), "error", error)
            self._end(number, "FAIL")

    def importances(self) -> dict[str, float]:
        """As `importance.importances`, of the trials that have ended."""
        return importances([trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()])

    def _end(self, number: int, state: str) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState[state], skip_if_finished=True)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._storage.get_study_id_from_name(NAME), number)

    def _row(self, trial: Any) -> Row:
        return Row(
            number=trial.number,
            state=STATES[trial.state.name],  # type: ignore[arg-type]
            values=decoded(self._space, trial.params),
            epochs=dict(sorted(trial.intermediate_values.items())),
            value=trial.value if trial.state.is_finished() else None,
            error=trial.user_attrs.get("error"),
        )

    def _encoded(self, values: dict[str, Any]) -> dict[str, Any]:
        axes = {axis.key: axis for axis in self._space.axes if isinstance(axis, Choice)}
        return {key: axes[key].labels[axes[key].values.index(value)] if key in axes else value for key, value in values.items()}
