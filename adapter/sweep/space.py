"""What a sweep searches: a base recipe, and for each key that is swept the values it may take.

A key is a recipe's, written as `--set` has it, so whatever `d2st train` can change can be swept. Parameters of adapters are the one thing
that depends on another: one that the drawn adapter does not have is left out of the trial, as long as some swept adapter has it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np

from d2st.adapter.nets.registry import ADAPTERS
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import load_recipe

__all__ = ["PARAMS", "Axis", "Choice", "Pruner", "Range", "Sampler", "Space", "toml_value"]

PARAMS = "adapter.params."

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["asha", "hyperband", "none"]


@dataclass(frozen=True)
class Choice:
    """A key that takes one of some values, in no order."""

    key: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str | int | float | bool, ...]:
        """The values as a journal can keep them: lists and tables as JSON."""
        return tuple(value if isinstance(value, str | int | float) else json.dumps(value, default=str) for value in self.values)

    def document(self) -> Any:
        """The axis as JSON."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A key that takes a number from `low` to `high`, both included; by its logarithm if `log`, in steps of `step` if that is given."""

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    @property
    def count(self) -> int:
        """How many values a range in steps has."""
        return int(np.floor((self.high - self.low) / (self.step or 1) + 1e-9)) + 1

    def values(self) -> tuple[float, ...]:
        """All values of a range in steps, rising; in decimals, for 0.1 + 2 * 0.1 is beyond 0.3 in binary."""
        if self.integer:
            return tuple(self.low + place * (self.step or 1) for place in range(self.count))
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return tuple(float(low + place * step) for place in range(self.count))

    def document(self) -> Any:
        """The axis as JSON."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log, **step}


Axis = Choice | Range


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        source: of the base recipe, as `load_recipe` takes it. fixed: overrides on top of it.
        base: the two together: the recipe of a trial before it draws anything.
        axes: what is swept, the adapter's name first.
    """

    source: int | str | Path
    fixed: tuple[str, ...]
    base: Recipe
    axes: tuple[Axis, ...]
    sampler: Sampler
    pruner: Pruner

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial that drew `values`, by key. Raises ConfigError when it refuses one, or a combination of them."""
        drawn = (f"{key}={toml_value(value)}" for key, value in values.items())
        return load_recipe(self.source, [*self.fixed, *drawn])

    def applies(self, axis: Axis, values: Mapping[str, Any]) -> bool:
        """Whether a trial that drew `values` so far draws from this axis too."""
        if not axis.key.startswith(PARAMS):
            return True
        spec = ADAPTERS.get(values.get("adapter.name", self.base.adapter.name))
        return spec is not None and axis.key.removeprefix(PARAMS) in spec.params.model_fields

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, each once, in an order that is shuffled by the recipe's seed: the first few are spread over the whole."""
        found = list(self._combinations(self.axes, {}))
        order = np.random.default_rng(self.base.seed).permutation(len(found))
        return [found[place] for place in order]

    def document(self) -> dict[str, Any]:
        """The space as JSON: two sweeps with equal documents search the same."""
        return {
            "recipe": json.loads(self.base.model_dump_json()),
            "sweep": {axis.key: axis.document() for axis in self.axes},
            "sampler": self.sampler,
            "pruner": self.pruner,
        }

    def _combinations(self, axes: tuple[Axis, ...], drawn: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not axes:
            yield drawn
        elif not self.applies(axes[0], drawn):
            yield from self._combinations(axes[1:], drawn)
        else:
            axis = axes[0]
            for value in axis.values if isinstance(axis, Choice) else axis.values():
                yield from self._combinations(axes[1:], {**drawn, axis.key: value})


def toml_value(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, date | time):  # no key takes one: the recipe says so
        return value.isoformat()
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
