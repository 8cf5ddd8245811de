"""All that can be wrong with a sweep, found before anything is trained; and the plans of its trials, which share what they have in common.

A value may be refused only together with others (focal loss and its gamma go with anything, a balanced loss does not): it counts as wrong
when no combination that was tried with it is accepted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.sweep.space import Axis, Choice, Space
from d2st.adapter.train import checkpoint
from d2st.adapter.train.plan import Plan, describe, plan_stage
from d2st.adapter.train.prepare import refuse_misfit
from d2st.adapter.train.recipe import Recipe
from d2st.cache import Store
from d2st.cache.errors import ConfigError, D2stError, RunError

__all__ = ["Planner", "check_space", "starts_from"]

TRIES = 20  # combinations with a value that is refused alone


class Planner:
    """Plans trials on one store. Trials with the same samples share their tables: a large manifest is sorted once, and kept once."""

    def __init__(self, store: Store, samples: pl.DataFrame) -> None:
        self._store, self._samples = store, samples
        self._kept: dict[str, Plan] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """As `plan_stage`, whose errors it raises."""
        shape = {"batch_size", "accumulate"}
        parts = (recipe.stage, recipe.seed, recipe.data.model_dump_json(), recipe.optim.model_dump_json(include=shape))
        key = repr((*parts, recipe.adapter.layers if recipe.data.views else None))
        if key not in self._kept:
            self._kept[key] = plan_stage(self._store, recipe, self._samples)
        kept = self._kept[key]
        made = describe(self._store, recipe, clip_frames=kept.meta["clip_frames"])
        return replace(kept, recipe=recipe, meta={**kept.meta, **made})


def starts_from(space: Space, init: str | None) -> Path | None:
    """The checkpoint that every trial starts from; None for random weights.

    Raises:
        ConfigError: recipes start from the stage before, and no checkpoint is named; or one is, and the adapter is swept.
        RunError: there is no such checkpoint.
    """
    stage = space.base.stage
    if init == "none" or (init is None and (stage == 1 or space.base.start == "scratch")):
        return None
    if init is None:
        raise ConfigError(
            f"trials of stage {stage} start from stage {stage - 1}, and no checkpoint is named",
            fix=f'Name one: --init runs/NAME/stage{stage - 1}; or write start = "scratch" at the top of the search space',
        )
    swept = [axis.key for axis in space.axes if axis.key.startswith("adapter.")]
    if swept:
        raise ConfigError(
            f"{', '.join(swept)} can't be swept when all trials start from {init}: its weights fit one network only",
            fix='Take it out of [sweep], or leave --init out and write start = "scratch" at the top of the search space',
        )
    return checkpoint.resolve_checkpoint(init)


def check_space(space: Space, planner: Planner, *, init: Path | None) -> None:
    """Try every value that is listed, and of every range both ends, and of whole numbers the second: a width may need a step.

    Raises:
        ConfigError, ManifestError, UnknownNameError: a value that the recipe, the adapter or the cache refuses.
        RunError, FingerprintError: the checkpoint does not fit.
    """
    plan = planner.plan(space.base)
    if init is not None:
        refuse_misfit(init, checkpoint.read_meta(init), plan.meta)
    rng = np.random.default_rng(0)
    for axis in space.axes:
        for value in _tried(axis):
            _try(space, planner, axis, value, rng)


def _tried(axis: Axis) -> tuple[Any, ...]:
    if isinstance(axis, Choice):
        return axis.values
    second = (min(axis.high, axis.low + (axis.step or 1)),) if axis.integer else ()
    return (axis.low, *second, axis.high)


def _try(space: Space, planner: Planner, axis: Axis, value: Any, rng: np.random.Generator) -> None:
    first: D2stError | None = None
    for values in _with(space, axis, value, rng):
        try:
            planner.plan(space.recipe(values))
        except RunError:  # the cache is broken, not the value
            raise
        except D2stError as error:
            first = first or error
        else:
            return
    assert first is not None
    first.message = f"[sweep] {axis.key} = {value!r}: {first.message}"
    raise first


def _with(space: Space, axis: Axis, value: Any, rng: np.random.Generator) -> Iterator[Mapping[str, Any]]:
    """Combinations that hold a value: it alone, and some that are drawn."""
    given = {axis.key: value}
    name = next((other for other in space.axes if other.key == "adapter.name"), None)
    if name is not axis and isinstance(name, Choice) and not space.applies(axis, {}):
        given["adapter.name"] = next(made for made in name.values if space.applies(axis, {"adapter.name": made}))
    yield given
    for _ in range(TRIES):
        drawn: dict[str, Any] = {}
        for other in space.axes:
            if other.key in given:
                drawn[other.key] = given[other.key]
            elif space.applies(other, drawn):
                drawn[other.key] = _random(other, rng)
        yield drawn


def _random(axis: Axis, rng: np.random.Generator) -> Any:
    if isinstance(axis, Choice):
        return axis.values[int(rng.integers(len(axis.values)))]
    return (axis.low, axis.high)[int(rng.integers(2))]
