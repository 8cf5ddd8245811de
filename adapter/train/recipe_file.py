"""Recipes as TOML: those that come with the package, a user's own, single values on the command line, and what a run writes down.

An unknown key is answered with its nearest neighbours, and a bad value with its key, its range and what it is now.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from d2st.adapter.train.recipe import Recipe
from d2st.cache.errors import ConfigError

__all__ = ["known_keys", "load_recipe", "recipe_names", "to_toml"]

_FOLDER = resources.files("d2st.adapter") / "recipes"


def load_recipe(source: int | str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe that comes with the package, or that of a TOML file, with overrides on top.

    Args:
        source: 1, 2 or 3, a name of `recipe_names()`, or a path.
        overrides: "section.key=value" each, the value written as in TOML; a bare word is taken as a string.

    Raises:
        ConfigError: no such recipe, not TOML, an unknown key, or a value out of its range.
    """
    if isinstance(source, str):
        source = source if source in recipe_names() else Path(source)
    if isinstance(source, Path):
        where = str(source)
        try:
            text = source.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"can't read the recipe {source}: {error.strerror}",
                fix=f"Name a TOML file or one of {', '.join(recipe_names())}, or use --stage",
            ) from error
    else:
        name = f"stage{source}" if isinstance(source, int) else source
        where = f"the recipe {name}"
        text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}", fix="Mend that line") from error
    for item in overrides:
        _apply(tree, item)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explained(error, where) from error


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml"))


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every default spelt out, each value with its meaning. `load_recipe` reads it back to an equal recipe."""
    lines = [f"# the resolved recipe of a run of stage {recipe.stage}; `d2st train --recipe THIS_FILE` repeats it", ""]
    tables = []
    for name, info in Recipe.model_fields.items():
        value = getattr(recipe, name)
        if isinstance(value, BaseModel):
            tables.append((name, value))
        else:
            lines.append(f"{name} = {_toml(value)}  # {info.description}")
    for name, part in tables:
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(getattr(part, key))}  # {info.description}" for key, info in type(part).model_fields.items()]
    return "\n".join(lines) + "\n"


def known_keys() -> list[str]:
    """Every key of a recipe, dotted."""
    keys = []
    for name, info in Recipe.model_fields.items():
        part = info.annotation
        is_table = isinstance(part, type) and issubclass(part, BaseModel)
        keys += [f"{name}.{key}" for key in part.model_fields] if is_table else [name]
    return keys


def _apply(tree: dict[str, Any], item: str) -> None:
    dotted, equals, text = item.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"an override is section.key=value, not {item!r}", fix="For example --set optim.epochs=3")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word; the model below judges it
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted.strip()!r} reaches into a value", fix=f"Known keys: {', '.join(known_keys())}")
    tree[names[-1]] = value


def _explained(error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, known_keys(), n=3, cutoff=0.6) or _same_name(key)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        return ConfigError(f"{where} has an unknown key {key!r}", fix=f"{hint}Known keys: {', '.join(known_keys())}")
    if first["type"] == "missing":
        return ConfigError(f"{where} lacks {key!r}", fix="Start from a recipe that comes with d2st")
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(
        f"{where}: {key + ': ' if key else ''}{message}",
        fix=f"It is {first['input']!r} now" if key else "Change one of the two",
    )


def _same_name(key: str) -> list[str]:
    return [known for known in known_keys() if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, BaseModel):
        return _toml(value.model_dump())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)  # a TOML basic string is a JSON string
