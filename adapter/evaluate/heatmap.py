"""A cross matrix as a heat map (PNG): rows are runs, columns what they were tested on, cells AUC and interval.

The colour map is cividis, which reads alike with any colour vision and in grey; every cell has its number too, and what a run has not been
trained on is marked by words, not by colour.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from d2st.adapter.evaluate.plots import STYLE, png

__all__ = ["heatmap_png"]

CELL_IN = (1.25, 0.72)  # width and height of a cell, inches
MARGIN_IN = (3.0, 2.0)
LOWEST = 0.4  # AUC at the dark end; below chance is dark too
SEEN = {True: "seen", False: "unseen", None: ""}


def heatmap_png(matrix: Mapping[str, Any], *, title: str) -> bytes:
    """Draw one matrix of `cross_matrices`; columns stand in its order, empty cells where a run has not scored them."""
    rows, columns = len(matrix["rows"]), len(matrix["columns"])
    size = (MARGIN_IN[0] + CELL_IN[0] * max(columns, 2), MARGIN_IN[1] + CELL_IN[1] * rows)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, loc="left")
        axes.set(xlim=(0, max(columns, 1)), ylim=(rows, 0))
        axes.set_xticks([place + 0.5 for place in range(columns)], [_column(made, matrix) for made in matrix["columns"]])
        axes.set_yticks([place + 0.5 for place in range(rows)], matrix["rows"])
        axes.tick_params(length=0, labelsize=8)
        axes.tick_params(axis="x", labelrotation=30)
        axes.spines[["left", "bottom"]].set_visible(False)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        for y, line in enumerate(matrix["cells"]):
            for x, cell in enumerate(line):
                _cell(axes, x, y, cell)
        axes.set_xlabel("tested on: AUC of videos, 95 % interval; seen = trained on the like of it", fontsize=8)
        return png(figure)


def _cell(axes: Axes, x: int, y: int, cell: Mapping[str, Any] | None) -> None:
    empty = cell is None or cell["auc"] is None
    share = 0.0 if empty else min(max((cell["auc"] - LOWEST) / (1 - LOWEST), 0.0), 1.0)
    face = "white" if empty else mpl.colormaps["cividis"](share)
    hatch = "////" if empty else None
    axes.add_patch(
        Rectangle((x, y), 1, 1, facecolor=face, edgecolor="#BBBBBB" if empty else "white", hatch=hatch, linewidth=1.5)
    )
    if empty:
        return
    ink = "white" if share < 0.55 else "black"
    axes.text(x + 0.5, y + 0.34, f"{cell['auc']:.3f}", ha="center", va="center", color=ink, fontsize=10)
    low_high = "-".join(f"{bound:.2f}" for bound in cell["interval"]) if cell["interval"] else "no interval"
    axes.text(x + 0.5, y + 0.66, low_high, ha="center", va="center", color=ink, fontsize=7)
    axes.text(x + 0.5, y + 0.88, SEEN[cell["seen"]], ha="center", va="center", color=ink, fontsize=7, style="italic")


def _column(made: Mapping[str, Any], matrix: Mapping[str, Any]) -> str:
    """Its name, without the data set where there is but one and the manipulation says more."""
    several = len({other["dataset"] for other in matrix["columns"]}) > 1
    shown = [made["dataset"]] if several or not made["method"] else []
    return " ".join([*shown, *([made["method"]] if made["method"] else []), f"({made['kind']}s)"])
