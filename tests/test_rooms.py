"""The rooms and what each may import, read from the source: nothing has to be importable for this to speak."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cache", "pipeline", "adapter", "cli")
ALLOWED = {"cache": {"cache"}, "pipeline": {"pipeline", "cache"}, "adapter": {"adapter", "cache"}, "cli": set(ROOMS)}
HEAVY = {"torch", "torchvision", "open_clip", "zarr", "polars", "decord", "av", "cv2", "matplotlib", "numpy", "PIL", "scipy"}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imported(tree, path):
    """Every module that a tree imports, as dotted names; `from d2st import cache` gives d2st.cache, relative ones are resolved."""
    package = ("d2st", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*above, *([node.module] if node.module else [])))
            yield from (f"{start}.{alias.name}" for alias in node.names)


def at_module_level(tree):
    """The module with the bodies of its functions and of `if TYPE_CHECKING` taken out."""
    return ast.Module(body=[_Outside().visit(node) for node in tree.body], type_ignores=[])


class _Outside(ast.NodeTransformer):
    def visit_FunctionDef(self, node):
        return ast.Pass()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node):
        guarded = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return ast.Pass() if guarded else self.generic_visit(node)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_stay_within_the_rooms(path):
    room = path.relative_to(ROOT).parts[0]
    names = [name.split(".") for name in imported(ast.parse(path.read_text(encoding="utf-8")), path)]
    for parts in names:
        assert parts[0] not in ROOMS, f"{'.'.join(parts)} is imported by its bare name"
        if parts[0] == "d2st" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in ALLOWED[room], f"{room} must not import {'.'.join(parts)}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "cli")], ids=name_of)
def test_cli_imports_nothing_heavy_at_module_level(path):
    names = set(imported(at_module_level(ast.parse(path.read_text(encoding="utf-8"))), path))
    assert {name.split(".")[0] for name in names} & HEAVY == set()
    # pipeline and adapter import torch and Polars themselves; only cache.errors and the like are light
    assert not {name for name in names if name.startswith(("d2st.pipeline", "d2st.adapter"))}
