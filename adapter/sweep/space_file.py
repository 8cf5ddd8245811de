"""A search space as TOML. Every mistake in it is found here, by its key, before anything is trained.

stage = 2                        # or recipe = "mine.toml" or a recipe that comes with d2st; start = "previous" or "scratch"
[set]                            # fixed for all trials, as --set has it
optim.epochs = 6
[sweep]                          # a list of values, or a range
optim.lr = { low = 1e-4, high = 1e-2, log = true }
adapter.name = ["d2st", "meanpool_mlp"]
[search]
sampler = "tpe"                  # tpe, random, grid
pruner = "asha"                  # asha, hyperband, none
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from d2st.adapter.nets.registry import ADAPTERS
from d2st.adapter.sweep.axes_file import read_axes, read_fixed, unknown_key
from d2st.adapter.sweep.space import PARAMS, Axis, Choice, Pruner, Range, Sampler, Space, toml_value
from d2st.adapter.train.recipe_file import load_recipe, recipe_names
from d2st.cache.errors import ConfigError

__all__ = ["BASE", "read_space", "space_text"]

BASE = "base.toml"  # the recipe that a written space names
TABLES = ("set", "sweep", "search")
GRID_MAX = 100_000  # nobody waits for more, and listing them must not fill the memory
TOP = ("stage", "recipe", "start", *TABLES)


def read_space(path: Path) -> Space:
    """Read a search space.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (with its nearest neighbours), an impossible range, or a value that the recipe
            refuses.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the search space {path}: {error.strerror}", fix="Name a TOML file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", fix="Mend that line") from error
    for key in tree:
        if key not in TOP:
            raise unknown_key(path, "", key, TOP)
    for name in TABLES:
        if not isinstance(tree.get(name, {}), dict):
            raise ConfigError(f"{path}: {name} is a table", fix=f"Begin it by a line [{name}]")
    source, entries = _source(path, tree), read_fixed(path, tree.get("set", {}))
    start = {"start": tree["start"]} if "start" in tree else {}
    fixed = [f"{key}={toml_value(value)}" for key, value in {**entries, **start}.items()]
    base = load_recipe(source, fixed)
    axes = read_axes(path, tree.get("sweep", {}), fixed=entries)
    if not axes:
        raise ConfigError(f"{path} sweeps nothing", fix='Name keys in [sweep], such as "optim.lr" = [1e-4, 1e-3]')
    search = _search(path, tree.get("search", {}))
    axes.sort(key=lambda axis: axis.key != "adapter.name")  # stable: what others depend on comes first
    if search["sampler"] == "grid":
        _refuse_endless(path, axes)
    space = Space(source=source, fixed=tuple(fixed), base=base, axes=tuple(axes), **search)
    _refuse_stray_params(path, space)
    return space


def space_text(space: Space) -> str:
    """A space as TOML that reads back to an equal one, with its base recipe beside it as `BASE`."""
    lines = [
        "# a search space; `d2st sweep THIS_FILE --cache STORE --name NAME` goes on with the sweep NAME that it lies in",
        "",
        f"recipe = {toml_value(BASE)}",
        "",
        "[sweep]",
        *(f"{toml_value(axis.key)} = {toml_value(axis.document())}" for axis in space.axes),
        "",
        "[search]",
        f"sampler = {toml_value(space.sampler)}",
        f"pruner = {toml_value(space.pruner)}",
    ]
    return "\n".join(lines) + "\n"


def _source(path: Path, tree: Mapping[str, Any]) -> int | str | Path:
    """Of the base recipe; a file is looked for beside the search space."""
    if ("stage" in tree) == ("recipe" in tree):
        raise ConfigError(f"{path} needs either stage or recipe", fix='Write stage = 2, or recipe = "mine.toml"')
    if "stage" in tree:
        if tree["stage"] not in (1, 2, 3):
            raise ConfigError(f"{path}: stage is 1, 2 or 3, not {tree['stage']!r}", fix="Write stage = 2")
        return int(tree["stage"])
    name = str(tree["recipe"])
    return name if name in recipe_names() else path.parent / name


def _search(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    known = {"sampler": get_args(Sampler), "pruner": get_args(Pruner)}
    for key, value in table.items():
        if key not in known:
            raise unknown_key(path, "search", key, known)
        if value not in known[key]:
            raise ConfigError(f"{path}: {key} can't be {value!r}", fix=f"Use {', '.join(known[key])}")
    return {"sampler": "tpe", "pruner": "asha", **table}


def _refuse_endless(path: Path, axes: Sequence[Axis]) -> None:
    for axis in axes:
        if isinstance(axis, Range) and (axis.log or (axis.step is None and not axis.integer)):
            raise ConfigError(
                f"{path}: a grid can't hold all numbers of {axis.key} from {axis.low} to {axis.high}",
                fix="List the values, give the range a step, or use the sampler tpe or random",
            )
    count = math.prod(len(axis.values) if isinstance(axis, Choice) else axis.count for axis in axes)
    if count > GRID_MAX:
        raise ConfigError(
            f"{path}: a grid of up to {count:,} combinations is more than anybody trains",
            fix=f"List fewer values, {GRID_MAX:,} combinations at most, or use the sampler tpe or random",
        )


def _refuse_stray_params(path: Path, space: Space) -> None:
    """A parameter that no swept adapter has."""
    names = next((axis.values for axis in space.axes if isinstance(axis, Choice) and axis.key == "adapter.name"), ())
    names = names or (space.base.adapter.name,)
    known = sorted(
        {PARAMS + name for adapter in names if adapter in ADAPTERS for name in ADAPTERS[adapter].params.model_fields}
    )
    for axis in space.axes:
        if axis.key.startswith(PARAMS) and axis.key not in known:
            raise unknown_key(path, f"sweep, with {', '.join(map(str, names))}", axis.key, known)
