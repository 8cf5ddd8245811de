"""P(fake) over the time of one video, as PNG: windows as steps, frames as dots, stretches without a face hatched.

Colours as in `plots`. What lies above the threshold is filled as well, and faces differ in dash too, so nothing rests on colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from d2st.adapter.evaluate.plots import BLUE, COLOURS, DASHES, GREY, STYLE, VERMILLION, png

__all__ = ["Line", "timeline_png"]

FACES_MAX = 6  # drawn in colours of their own; more can't be told apart
DOTS_MAX = 600  # frames; more than these are a smear
LEGEND = ("clip", "windows", "frames", "threshold", "above", "not")  # what entries begin with, in their order
JOIN_S = 0.01  # windows closer than this are neighbours


@dataclass(frozen=True)
class Line:
    """One face. `windows`: (start_s, end_s, P(fake)), rising; `frames`: (time_s, P(fake))."""

    name: str
    windows: Sequence[tuple[float, float, float]]
    frames: Sequence[tuple[float, float]]


def timeline_png(
    lines: Sequence[Line], *, gaps: Sequence[tuple[float, float]], threshold: float, duration_s: float, title: str
) -> bytes:
    """Draw one video.

    Args:
        lines: the most suspicious face first.
        gaps: (start_s, end_s) of stretches that could not be scored.
        threshold: P(fake) above it is called fake.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=11)
        for place, (start_s, end_s) in enumerate(gaps):
            label = "not scored" if place == 0 else None
            axes.axvspan(start_s, end_s, facecolor="none", edgecolor=GREY, hatch="////", linewidth=0, label=label)
        if len(lines) == 1:
            _alone(axes, lines[0], threshold)
        else:
            _several(axes, lines)
        axes.axhline(threshold, color="black", linewidth=1, linestyle="--", label=f"threshold {threshold:.2f}")
        axes.set(ylabel="P(fake)", ylim=(-0.02, 1.02), xlim=(0, max(duration_s, 1e-3)))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
        if duration_s > 120:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: _clock(s)))
            axes.set_xlabel("time [h:mm:ss]" if duration_s >= 3600 else "time [m:ss]")
        else:
            axes.set_xlabel("time [s]")
        listed = sorted(zip(*axes.get_legend_handles_labels()[::-1], strict=True), key=lambda entry: _place(entry[0]))
        names, handles = zip(*listed, strict=True)
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, edgecolor="none", framealpha=0)
        return png(figure)


def _place(name: str) -> int:
    """Where an entry stands in the legend; faces come first."""
    return next((place for place, start in enumerate(LEGEND) if name.startswith(start)), -1)


def _alone(axes: Axes, line: Line, threshold: float) -> None:
    x, y = _steps(line.windows)
    axes.fill_between(
        x, threshold, y, where=y > threshold, facecolor=VERMILLION, alpha=0.35, linewidth=0, label="above threshold"
    )
    if len(line.frames) <= DOTS_MAX:
        times, values = zip(*line.frames, strict=True) if line.frames else ((), ())
        axes.plot(
            times, values, linestyle="", marker="o", markersize=3, color=BLUE, alpha=0.45, markeredgewidth=0, label="frames"
        )
    name = "clip" if len(line.windows) == 1 else "windows"
    axes.plot(x, y, color=BLUE, linewidth=1.8 if len(line.windows) < 400 else 0.9, label=name)


def _several(axes: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines[:FACES_MAX]):
        look = {"color": COLOURS[place], "linestyle": DASHES[place % len(DASHES)], "zorder": 3 - place / 10}
        axes.plot(*_steps(line.windows), linewidth=1.8, label=line.name, **look)
    for line in lines[FACES_MAX:]:
        axes.plot(*_steps(line.windows), color=GREY, linewidth=0.8, alpha=0.6, zorder=2)
    if len(lines) > FACES_MAX:
        axes.plot([], [], color=GREY, linewidth=0.8, label=f"{len(lines) - FACES_MAX} more")


def _steps(windows: Sequence[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n,) of a line that is flat over each window, with nan between those that are no neighbours."""
    x: list[float] = []
    y: list[float] = []
    for start_s, end_s, value in windows:
        if x and start_s > x[-1] + JOIN_S:
            x.append(np.nan)
            y.append(np.nan)
        x += [start_s, end_s]
        y += [value, value]
    return np.array(x), np.array(y)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
