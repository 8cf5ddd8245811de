"""Three pictures of a sweep (PNG): its course, its trials as lines through what they drew, and what each key has to do with being good.

The colour map is cividis, which reads alike with any colour vision and in grey; states differ in their marks too.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from d2st.adapter.evaluate.plots import STYLE, png
from d2st.adapter.sweep.space import Axis, Choice, Space
from d2st.adapter.sweep.study import Row

__all__ = ["history_png", "importances_png", "parallel_png"]

GREY = "#8A8A8A"
ABSENT = -0.12  # where a line passes an axis that its trial does not draw from
SPREAD = 0.05  # lines that share a choice are spread by so much, or they would hide each other
AXIS_IN, HEIGHT_IN = 1.35, 4.6


def history_png(rows: Sequence[Row], *, title: str) -> bytes:
    """Validation AUC by trial, and the best of the finished ones so far."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure((7.2, 4.2))
        axes.set_title(title, loc="left", fontsize=11)
        looks = {"complete": ("o", "#0072B2", "finished"), "pruned": ("x", GREY, "pruned: as far as it came")}
        for state, (marker, colour, label) in looks.items():
            some = [row for row in rows if row.state == state and row.value is not None]
            if some:
                x, y = [row.number for row in some], [row.value for row in some]
                axes.plot(x, y, marker, color=colour, label=f"{label} ({len(some)})", markersize=5, alpha=0.85)
        done = [row for row in rows if row.state == "complete" and row.value is not None]
        if done:
            best = np.maximum.accumulate([row.value for row in done])
            x = [row.number for row in done]
            axes.step(
                [*x, rows[-1].number], [*best, best[-1]], where="post", color="#D55E00", linewidth=1.6, label="best so far"
            )
        for row in rows:
            if row.state == "failed":
                axes.axvline(row.number, color="#D55E00", linestyle=":", linewidth=0.9, zorder=0)
        if failed := sum(row.state == "failed" for row in rows):
            axes.plot([], [], color="#D55E00", linestyle=":", label=f"failed ({failed})")
        axes.set(xlabel="trial", ylabel="validation AUC")
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        return png(figure)


def parallel_png(space: Space, rows: Sequence[Row], *, title: str) -> bytes:
    """Each trial as a line through what it drew, in the colour of its validation AUC; pruned ones dashed and thin, the best on top."""
    shown = sorted((row for row in rows if row.value is not None), key=lambda row: (row.state == "complete", row.value))
    values = [row.value for row in shown if row.value is not None]
    norm = Normalize(min(values, default=0.0), max(values, default=1.0))
    count = len(space.axes) + 1
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = _figure((max(5.0, 1.2 + AXIS_IN * count), HEIGHT_IN))
        axes.set_title(title, loc="left", fontsize=11, pad=26)
        axes.set(xlim=(-0.25, count - 0.75), ylim=(ABSENT - 0.08, 1.06))
        axes.set_axis_off()
        rng = np.random.default_rng(0)
        for row in shown:
            y = [_place(axis, row.values[axis.key], rng) if axis.key in row.values else ABSENT for axis in space.axes]
            share = float(norm(row.value)) if norm.vmax > norm.vmin else 1.0
            done = row.state == "complete"
            look = (
                {"linewidth": 1.0 + 1.2 * share, "alpha": 0.9} if done else {"linewidth": 0.6, "alpha": 0.5, "linestyle": "--"}
            )
            axes.plot(range(count), [*y, share], color=mpl.colormaps["cividis"](share), **look)
        for x, axis in enumerate(space.axes):
            ticks = _ticks(axis)
            absent = any(axis.key not in row.values for row in shown)
            _axis(axes, x, _short(axis.key), [*ticks, *([(ABSENT, "not used")] if absent else [])])
        marks = np.linspace(norm.vmin, norm.vmax, 5)
        _axis(
            axes,
            count - 1,
            "validation AUC",
            [(share, f"{mark:.3f}") for share, mark in zip(np.linspace(0, 1, 5), marks, strict=True)],
        )
        return png(figure)


def importances_png(importances: Mapping[str, float], *, title: str) -> bytes:
    """Share of each key in being among the best trials."""
    found = sorted(importances.items(), key=lambda item: item[1])
    with mpl.rc_context(STYLE):
        figure, axes = _figure((6.4, 1.3 + 0.34 * len(found)))
        axes.set_title(title, loc="left", fontsize=11)
        bars = axes.barh([key for key, _ in found], [share for _, share in found], color="#0072B2", height=0.62)
        axes.bar_label(bars, labels=[f"{share:.0%}" for _, share in found], padding=4, fontsize=8)
        axes.set(
            xlabel="importance for being among the best trials (PED-ANOVA)", xlim=(0, max(share for _, share in found) * 1.15)
        )
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelsize=9)
        return png(figure)


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _place(axis: Axis, value: Any, rng: np.random.Generator) -> float:
    """Where a value lies on its axis, 0 to 1."""
    if isinstance(axis, Choice):
        return axis.values.index(value) / max(1, len(axis.values) - 1) + float(rng.uniform(-SPREAD, SPREAD))
    low, high, here = np.log([axis.low, axis.high, value]) if axis.log else (axis.low, axis.high, value)
    return float((here - low) / (high - low))


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """(place, text) of the marks of an axis."""
    if isinstance(axis, Choice):
        texts = [value if isinstance(value, str) else json.dumps(value) for value in axis.values]
        return [(place / max(1, len(texts) - 1), text) for place, text in enumerate(texts)]
    shares = np.linspace(0, 1, 3 if axis.log else 5)
    values = axis.low * (axis.high / axis.low) ** shares if axis.log else axis.low + (axis.high - axis.low) * shares
    return [(float(share), f"{value:.3g}") for share, value in zip(shares, values, strict=True)]


def _axis(axes: Axes, x: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([x, x], [0, 1], color="#444444", linewidth=1.0, zorder=3)
    axes.text(x, 1.09, name, ha="center", va="bottom", fontsize=8, fontweight="bold")
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for place, text in ticks:
        axes.plot([x - 0.02, x + 0.02], [place, place], color="#444444", linewidth=1.0, zorder=3)
        axes.text(x + 0.04, place, text, ha="left", va="center", fontsize=7, zorder=4, bbox=box)


def _short(key: str) -> str:
    """adapter.params.preset -> params.preset: the last two parts say enough, and fit."""
    return ".".join(key.split(".")[-2:])
