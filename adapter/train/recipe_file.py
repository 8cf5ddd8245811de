"""Recipes as TOML: those that come with the package, a user's own, single values on the command line, and what a run writes down.

An unknown key is answered with its nearest neighbours, and a bad value with its key, its range and what it is now.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from d2st.adapter.train.recipe import Recipe
from d2st.cache.errors import ConfigError, UsageError

__all__ = ["known_keys", "load_recipe", "recipe_names", "to_toml"]

_FOLDER = resources.files("d2st.adapter") / "recipes"
_NAME = r""" "(?:[^"\\]|\\.)*" | '[^']*' | [^.="']+ """.replace(" ", "")  # of an override's dotted key; quoted as in TOML
_OVERRIDE = re.compile(rf"\s*((?:{_NAME})(?:\s*\.\s*(?:{_NAME}))*)\s*=(.*)", re.DOTALL)


def load_recipe(source: int | str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe that comes with the package, or that of a TOML file, with overrides on top.

    Args:
        source: 1, 2 or 3, a name of `recipe_names()`, or a path.
        overrides: "section.key=value" each, the value written as in TOML; a bare word is taken as a string, and a name with a dot or a
            sign of equality is quoted: data.mix.dataset."DFDC.v2"=1.

    Raises:
        ConfigError: no such recipe, not TOML, an unknown key, or a value out of its range.
    """
    if isinstance(source, str):
        source = source if source in recipe_names() else Path(source)
    if isinstance(source, Path):
        where = str(source)
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where} is not UTF-8 text: {error}", fix="Save it as UTF-8, or name a TOML file") from error
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
        raise _explained(error, where, tree) from error


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
    return _keys(Recipe)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        part = _table(info.annotation)
        keys += _keys(part, f"{prefix}{name}.") if part else [prefix + name]
    return keys


def _table(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _apply(tree: dict[str, Any], item: str) -> None:
    parsed = _OVERRIDE.fullmatch(item)
    names = [_unquoted(name.strip()) for name in re.findall(_NAME, parsed[1])] if parsed else []
    if parsed is None or not all(names):
        raise UsageError(f"an override is section.key=value, not {item!r}", fix="For example --set optim.epochs=3")
    dotted, text = parsed[1].strip(), parsed[2].strip()
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word; the model below judges it
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted!r} reaches into a value", fix=f"Known keys: {', '.join(known_keys())}")
    tree[names[-1]] = value


def _unquoted(name: str) -> str:
    """A part of a dotted key; empty where its quoting is wrong."""
    if not name.startswith(('"', "'")):
        return name
    try:
        return tomllib.loads(f"name = {name}")["name"]
    except tomllib.TOMLDecodeError:
        return ""


def _explained(error: ValidationError, where: str, tree: dict[str, Any]) -> ConfigError:
    # a misspelt key also leaves its namesake missing: tell of the key that is there
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    names, info = _field(first["loc"])
    key = ".".join(names)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, known_keys(), n=3, cutoff=0.6) or _same_name(key)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        return ConfigError(f"{where} has an unknown key {key!r}", fix=f"{hint}Known keys: {', '.join(known_keys())}")
    if first["type"] == "missing":
        return ConfigError(f"{where} lacks {key!r}", fix="Start from a recipe that comes with d2st")
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return ConfigError(f"{where}: {message}", fix="Change one of the two")
    if first["loc"][-1] == "[key]":
        return ConfigError(f"{where}: {key}: {message}", fix=f"The key is {first['input']!r} now")
    if info is not None and get_origin(info.annotation) in (Union, UnionType):  # each member has a complaint of its own
        message = f"it takes {info.description}"
    value: Any = tree
    for name in names:
        value = value[name]
    return ConfigError(f"{where}: {key}: {message}", fix=f"It is {value!r} now")


def _field(loc: tuple[int | str, ...]) -> tuple[list[str], FieldInfo | None]:
    """The keys that lead to what an error is about, and its field; what pydantic adds behind (members of unions, places) is left out."""
    names, model = [], Recipe
    for at, part in enumerate(loc):
        names.append(str(part))
        info = model.model_fields.get(str(part))
        table = _table(info.annotation) if info else None
        if table is None:
            if info and get_origin(info.annotation) is dict:
                names += [str(name) for name in loc[at + 1 : at + 2]]
            return names, info
        model = table
    return names, None


def _same_name(key: str) -> list[str]:
    return [known for known in known_keys() if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, BaseModel):
        return _toml(value.model_dump())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # a TOML basic string is a JSON string, but for pairs of surrogates, which it refuses, and for DEL, which it wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
