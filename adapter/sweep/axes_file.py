"""The entries of a search space: dotted keys, lists of values, ranges; and what is said of those that make no sense."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d2st.adapter.sweep.space import PARAMS, Axis, Choice, Range, toml_value
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import known_keys
from d2st.cache.errors import ConfigError

__all__ = ["read_axes", "read_fixed", "unknown_key"]

RANGE = ("low", "high", "log", "step")
OPEN = (
    "adapter.params",
    "optim.rates",
    "data.mix.dataset",
    "data.mix.label",
    "data.mix.kind",
)  # tables with keys of the user's
REASONS = {
    "stage": "a sweep is of one stage",
    "start": "it is the same for all trials; write it at the top of the file",
    "seed": "repeats with other seeds come by themselves, see --seeds",
    "data.kinds": "trials would be judged by different validation samples",
    "data.shuffle_labels": "trials would be judged by different labels",
    "data.allow_identity_overlap": "it is a matter of the data, not of the search",
}


def read_fixed(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of [set], by dotted key. Raises ConfigError for an unknown key."""
    found = dict(_flat(table, ranges=False))
    for key in found:
        _refuse_unknown(path, "set", key)
    return found


def read_axes(path: Path, table: Mapping[str, Any], *, fixed: Iterable[str]) -> list[Axis]:
    """The entries of [sweep]; `fixed` are the keys of [set]. Raises ConfigError for one that makes no sense."""
    found: list[Axis] = []
    for key, value in _flat(table, ranges=True):
        if key in fixed or any(key == axis.key for axis in found):
            raise ConfigError(f"{path}: {key} is there twice, or both in [set] and in [sweep]", fix="Keep one of the two")
        found.append(_axis(path, key, value))
    return found


def unknown_key(path: Path, table: str, key: str, known: Iterable[str]) -> ConfigError:
    """The error to raise for a key that is not among the known ones: with its nearest neighbours."""
    known = list(known)
    last = key.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6) or [k for k in known if k.rsplit(".", 1)[-1] == last]
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    where = f"{path}, [{table}]" if table else str(path)
    return ConfigError(f"{where} has an unknown key {key!r}", fix=f"{hint}Known keys: {', '.join(known)}")


def _axis(path: Path, key: str, value: Any) -> Axis:
    _refuse_unknown(path, "sweep", key)
    if key in REASONS:
        raise ConfigError(f"{path}: {key} can't be swept: {REASONS[key]}", fix="Take it out of [sweep]")
    if isinstance(value, dict):
        return _range(path, key, value)
    if not isinstance(value, list):
        raise ConfigError(
            f"{path}: {key} is swept over a list or a range, not {value!r}",
            fix=f"Write {key} = [{toml_value(value)}, ...] or {{ low = ..., high = ... }}, or move it to [set]",
        )
    choice = Choice(key, tuple(value))
    if len(set(choice.labels)) < max(2, len(value)):  # 1 and 1.0 are one value
        what = "names a value twice" if len(value) > 1 else "has no two values to choose from"
        raise ConfigError(f"{path}: {key} {what}", fix="Name each value once; what all trials share belongs into [set]")
    return choice


def _range(path: Path, key: str, table: Mapping[str, Any]) -> Range:
    for name in table:
        if name not in RANGE:
            raise unknown_key(path, f"sweep, {key}", name, RANGE)
    low, high, step, log = table.get("low"), table.get("high"), table.get("step"), table.get("log", False)
    numbers = [number for number in (low, high, step) if number is not None]
    if low is None or high is None or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ConfigError(f"{path}: {key} needs low and high, both numbers", fix=f"Write {key} = {{ low = 1e-4, high = 1e-2 }}")
    if not isinstance(log, bool):
        raise ConfigError(f"{path}: {key}: log is true or false, not {log!r}", fix="Write log = true")
    faults = {
        "low and high must be finite": not all(map(math.isfinite, numbers)),
        f"low {low} is not below high {high}": not low < high,
        f"a logarithmic range begins above 0, not at {low}": log and low <= 0,
        "a logarithmic range has no step": log and step is not None,
        f"step {step} is not above 0": step is not None and step <= 0,
    }
    if found := [what for what, wrong in faults.items() if wrong]:
        raise ConfigError(f"{path}: {key}: {found[0]}", fix="Mend that range")
    integer = _is_integer(key, numbers)
    if integer and not all(isinstance(number, int) for number in numbers):
        raise ConfigError(
            f"{path}: {key} takes whole numbers, not {json.dumps(table)}", fix="Write low and high without a point"
        )
    cast = int if integer else float
    return Range(key, cast(low), cast(high), log=log, step=None if step is None else cast(step), integer=integer)


def _is_integer(key: str, numbers: Iterable[float]) -> bool:
    """Whether a key of a recipe takes whole numbers; for an adapter's parameter, whether that is what was written."""
    model: Any = Recipe
    for name in key.split("."):
        info = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        model = info.annotation if info else None
    if model is None and key.startswith(PARAMS):
        return all(isinstance(number, int) for number in numbers)
    return model is int


def _flat(table: Mapping[str, Any], *, ranges: bool, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, be they written with quotes ("optim.lr" = 1) or without (optim.lr = 1, which TOML takes for tables)."""
    for name, value in table.items():
        key = prefix + (json.dumps(name, ensure_ascii=False) if prefix and not re.fullmatch(r"[\w-]+", name) else name)
        is_range = ranges and isinstance(value, dict) and bool({"low", "high"} & value.keys())
        if isinstance(value, dict) and value and not is_range:
            yield from _flat(value, ranges=ranges, prefix=f"{key}.")
        else:
            yield key, value


def _refuse_unknown(path: Path, table: str, key: str) -> None:
    if key not in known_keys() and not any(key.startswith(f"{opened}.") for opened in OPEN):
        raise unknown_key(path, table, key, known_keys())
