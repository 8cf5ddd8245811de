"""Robustness curves as PNG: one panel a perturbation, AUC against severity with its interval, the curves labelled where they end.

A panel each, and bars in place of bands, since what lies over each other hides one another. Images and videos differ in colour (Okabe and
Ito), dash and marker. A mark is filled where the interval of the change leaves out 0, which it may where two bars overlap: both points are
measured on the same videos.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2st.adapter.evaluate.robustness import differs, extent

__all__ = ["robustness_png"]

LOOKS = {"image": ("#0072B2", "-", "o", -0.07), "video": ("#D55E00", "--", "s", 0.07)}  # colour, dash, mark, shift to the right
GREY, INK = "#8A8A8A", "#444444"
MOST_IN_A_ROW = 3
APART = 0.05  # of the axis: labels that would lie closer are moved apart
STYLE = {
    "font.size": 10,
    "text.parse_math": False,  # a $ in the name of a run, a file or a manipulation is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def robustness_png(document: Mapping[str, Any], *, title: str) -> bytes:
    """The curves of `document`: what `summarise_robustness` gives, where each entry of `perturbations` is {"parameter", "severities":
    [{"value", "kinds"}, ...]}. The same document gives the same bytes."""
    entries = document["perturbations"]
    columns = min(MOST_IN_A_ROW, max(1, len(entries)))
    rows = -(-max(1, len(entries)) // columns)
    low, high = extent(document)
    bottom, top = low - 0.02, high + 0.02  # the same for all panels
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 4.0 * columns, 0.7 + 3.3 * rows), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{title}, perturbed crops", fontsize=12)
        figure.supxlabel("\n".join(_footer(document)), fontsize=8.5, color=INK)
        for place, (name, entry) in enumerate(entries.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            severities = entry["severities"]
            axes.set(xlim=(-0.3, len(severities) + 1.55), ylim=(bottom, top), xlabel=entry["parameter"])
            axes.set_title(name, fontsize=11, loc="left")
            axes.set_xticks(range(len(severities) + 1), ["clean", *(f"{step['value']:g}" for step in severities)])
            if place % columns == 1 or columns == 1:
                axes.set_ylabel("AUC by video")
            axes.axhline(0.5, color=GREY, linewidth=0.9, linestyle=":")
            _curves(axes, [document["clean"], *severities], span=top - bottom)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _curves(axes: Axes, steps: Sequence[Mapping[str, Any]], *, span: float) -> None:
    """One curve a kind that has AUCs, from the clean pictures on; labels to the right of the last points."""
    ends = []
    for kind, (colour, dash, marker, shift) in LOOKS.items():
        levels = [step["kinds"].get(kind) for step in steps]
        if any(level is None or level["auc"] is None for level in levels):
            continue
        aucs, places = [level["auc"] for level in levels], [place + shift for place in range(len(levels))]
        axes.plot(places, aucs, color=colour, linestyle=dash, linewidth=1.7)
        for place, level in zip(places, levels, strict=True):
            if level["interval"]:
                axes.plot([place, place], level["interval"], color=colour, linewidth=1.1, alpha=0.55, solid_capstyle="butt")
            face = colour if differs(level) else "white"
            axes.plot(place, level["auc"], marker=marker, markersize=5, color=colour, markerfacecolor=face, zorder=3)
        ends.append((aucs[-1], f"{kind}s {aucs[-1]:.2f}", colour))
    if not ends:
        axes.text(0.5, 0.5, "one class only: no AUC", ha="center", va="center", color=GREY, transform=axes.transAxes)
    height = None
    for end, label, colour in sorted(ends):
        height = end if height is None else max(end, height + APART * span)
        backed = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(len(steps) - 1 + 0.2, height, label, color=colour, va="center", fontsize=9, bbox=backed)


def _footer(document: Mapping[str, Any]) -> list[str]:
    counts = [f"{kind}s: {level['n_real']} real, {level['n_fake']} fake" for kind, level in document["clean"]["kinds"].items()]
    return ["bars: 95 % of bootstrap resamples of videos", "filled: differs from clean (paired, 95 %)", "; ".join(counts)]
