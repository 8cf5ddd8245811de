"""The little Markdown that a model card needs; text from files can't break out of its cell."""

from collections.abc import Iterable, Sequence

__all__ = ["bullets", "cell", "interval", "number", "table"]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; None is a dash."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def cell(value: object) -> str:
    """One line of text; bars are escaped, angle brackets open no HTML."""
    text = "–" if value is None else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def interval(value: float | None, ends: Sequence[float] | None) -> str:
    """ "0.812 [0.742, 0.870]"."""
    if value is None or not ends or None in ends:
        return number(value)
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
