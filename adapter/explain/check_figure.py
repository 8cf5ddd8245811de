"""What `faithful.summarise` found, as one PNG: deletion and insertion curves, and the pointing game with what chance gives."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2st.adapter.evaluate.plots import STYLE, png

__all__ = ["check_png"]

LOOKS = {  # Okabe and Ito; lines differ in dash too
    "relevance": ("#D55E00", "-", 2.4),
    "attention": ("#0072B2", "--", 1.5),
    "another clip's": ("#CC79A7", "-.", 1.5),
    "centre": ("#009E73", (0, (1, 1)), 1.5),
    "random": ("#8A8A8A", "-", 1.5),
}
INK = "#333333"


def check_png(summary: Mapping[str, Any], *, title: str, base: str) -> bytes:
    """Draw the scope "all"; `base`: what deleted pixels become, in a few words. The same summary gives the same bytes."""
    scope = summary["all"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12.5, 4.1), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
        _curves(panels[0], scope, "deletion", f"most important first\nto {base}", "a smaller area is better")
        _curves(panels[1], scope, "insertion", f"most important first\ninto {base}", "a larger area is better")
        _bars(panels[2], scope)
        return png(figure)


def _curves(axes: Axes, scope: Mapping[str, Any], kind: str, about: str, better: str) -> None:
    for name, found in scope["maps"].items():
        colour, dash, width = LOOKS[name]
        curve = found[f"{kind}_curve"]
        label = f"{found[kind]['value']:.3f}  {name}"
        axes.plot(np.linspace(0, 100, len(curve)), curve, color=colour, linestyle=dash, linewidth=width, label=label)
    axes.set(xlabel=f"pixels of the clip [%], {about}", ylabel="mean P(fake)", ylim=(0, 1), xlim=(0, 100))
    axes.set_title(f"{kind}: {better}", fontsize=10, loc="left")
    axes.legend(title="area", fontsize=8, title_fontsize=8, framealpha=0.9, edgecolor="none", alignment="left")


def _bars(axes: Axes, scope: Mapping[str, Any]) -> None:
    names, chance = list(scope["maps"]), 100 * scope["chance"]
    for place, name in enumerate(names):
        value = 100 * scope["maps"][name]["hit"]["value"]
        axes.barh(place, value, color=LOOKS[name][0], height=0.62)
        near = value < chance < value + 16  # the line would run through the number
        axes.text((chance if near else value) + 1.5, place, f"{value:.0f} %", va="center", fontsize=9, color=INK)
    axes.axvline(chance, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 115), ylim=(len(names) - 0.5, -0.5), xlabel=f"clips [%], n = {scope['clips']}")
    axes.set_title("pointing game: highest point in the mask (dashed: chance)", fontsize=10, loc="left")
    axes.grid(axis="y", visible=False)
