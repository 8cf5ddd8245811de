"""The lower edge of a figure: what each layer adds, and what colours and sizes mean."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from d2st.adapter.explain.evidence import Evidence
from d2st.adapter.explain.panels import FAKE, REAL

__all__ = ["GREY", "INK", "draw_key", "draw_layers"]

GREY, INK = "#7A7A7A", "#333333"


def draw_layers(axes: Axes, evidence: Evidence) -> None:
    """Two bars a layer: by how much the logit falls without it, and what its gradients add up to."""
    places = np.arange(len(evidence.layers))
    for shift, hatch in ((-0.2, ""), (0.2, "//////")):
        values = [share.gradient + share.cls if hatch else share.ablation for share in evidence.layers]
        colours = [FAKE if value > 0 else REAL for value in values]
        face = "white" if hatch else colours
        axes.barh(places + shift, values, height=0.36, color=face, edgecolor=colours, hatch=hatch, linewidth=0.8)
        for place, value in zip(places + shift, values, strict=True):
            right = value >= 0
            look = {"fontsize": 6, "va": "center", "ha": "left" if right else "right", "color": INK}
            axes.annotate(f"{value:+.2f}", (value, place), (3 if right else -3, 0), textcoords="offset points", **look)
    axes.set_yticks(places, [share.layer for share in evidence.layers])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.tick_params(labelsize=7, length=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left"]].set_visible(False)
    axes.set_title("layers, in logits: lost without it; hatched: its relevance", fontsize=7, loc="left", color=INK, pad=3)


def draw_key(axes: Axes, *, points: bool, attention: bool) -> None:
    """What colours and sizes mean."""
    axes.set_axis_off()
    words = {"fontsize": 7, "color": INK, "va": "center"}
    both = mpl.colors.LinearSegmentedColormap.from_list("towards", [REAL, "#F2F2F2", FAKE])
    bars = [("relevance, and effect of a place", both, "real", "fake")]
    if attention:
        bars.append(("attention", mpl.colormaps["viridis"], "even", "most"))
    for line, (name, colours, low, high) in enumerate(bars):
        y = 0.78 - 0.3 * line
        axes.text(0.0, y, name, **words)
        axes.text(0.475, y, low, ha="right", **words)
        axes.imshow(np.linspace(0, 1, 256)[None], extent=(0.49, 0.79, y - 0.06, y + 0.06), cmap=colours, aspect="auto")
        axes.text(0.805, y, high, ha="left", **words)
    if points:
        y = 0.78 - 0.3 * len(bars)
        axes.text(0.0, y, "area of a place: attention it gets", **words)
        for k, share in enumerate((0.1, 0.4, 1.0)):
            axes.scatter(0.51 + 0.04 * k, y, s=70 * share, color="white", edgecolor=INK, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1))
