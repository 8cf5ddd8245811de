"""A clip's evidence as one figure (PNG): kinds of evidence are rows, frames columns, the score of each frame above, the layers below.

A picture, or a clip of two frames, is turned over: kinds stand side by side there, or the figure would be a narrow tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2st.adapter.evaluate.plots import STYLE, png
from d2st.adapter.explain.evidence import Evidence
from d2st.adapter.explain.keys import GREY, INK, draw_key, draw_layers
from d2st.adapter.explain.panels import FAKE, REAL
from d2st.adapter.explain.rows import Row, evidence_rows

__all__ = ["Caption", "Sheet", "draw_scores", "evidence_png", "label_row", "strip"]

MOST_COLUMNS = 12  # of a longer clip, as many frames at even distance
FEWEST_COLUMNS = 3  # below, frames are rows
GAP_PX = 4


@dataclass(frozen=True)
class Caption:
    """What a figure says beside the evidence.

    Attributes:
        title, subtitle: the two lines above it.
        frame_scores: (T,), P(fake) of each frame; threshold: drawn as a line through them; timestamps_s: (T,).
    """

    title: str
    subtitle: str
    frame_scores: Sequence[float]
    threshold: float
    timestamps_s: Sequence[float]


class Sheet:
    """A blank figure of width x height inches with a title, on which things are placed in inches from the upper left corner."""

    def __init__(self, width: float, height: float, caption: Caption, *, dpi: int = 150) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=dpi)
        FigureCanvasAgg(self.figure)
        self.text(0.18, 0.16, caption.title, ha="left", va="top", fontsize=12.5, color="black")
        self.text(0.18, 0.44, caption.subtitle, ha="left", va="top", fontsize=8.5, color=INK)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height))

    def pixels(self) -> np.ndarray:
        """(H,W,3) uint8 RGB."""
        self.figure.canvas.draw()
        return np.asarray(self.figure.canvas.buffer_rgba())[..., :3].copy()

    def text(self, x: float, y: float, words: str, **look: object) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, words, parse_math=False, **look)  # a file's name may hold $


def evidence_png(crops: np.ndarray, evidence: Evidence, caption: Caption) -> bytes:
    """Draw one clip; the same evidence gives the same bytes.

    Args:
        crops: (T,S,S,3) uint8 RGB, the frames that `evidence` is of.
    """
    columns = min(len(crops), MOST_COLUMNS)
    frames = [(2 * k + 1) * len(crops) // (2 * columns) for k in range(columns)]
    draw = _tall if columns >= FEWEST_COLUMNS else _wide
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        return png(draw(crops, frames, evidence, caption).figure)


def _tall(crops: np.ndarray, frames: list[int], evidence: Evidence, caption: Caption) -> Sheet:
    """Frames are columns."""
    rows = evidence_rows(crops, evidence, side=160)
    cell, left, head, foot = 1.05, 1.55, 1.62, 1.15
    across = max(cell * len(frames), 7.2)
    sheet = Sheet(left + across + 0.18, head + cell * len(rows) + foot, caption)
    draw_scores(sheet.axes(left, 0.82, cell * len(frames), 0.55), caption, frames=frames)
    for line, row in enumerate(rows):
        top = head + line * cell
        label_row(sheet, left - 0.12, top + 0.47 * cell, row, across=False)
        strip(sheet.axes(left, top, cell * len(frames), cell), [[row.panel(frame) for frame in frames]])
    _foot(sheet, left, head + cell * len(rows) + 0.4, evidence)
    return sheet


def _wide(crops: np.ndarray, frames: list[int], evidence: Evidence, caption: Caption) -> Sheet:
    """Kinds of evidence are columns."""
    rows = evidence_rows(crops, evidence, side=400)
    cell, left, head, foot = 2.0, 0.15, 1.28, 1.15
    across = max(cell * len(rows), 8.6)
    sheet = Sheet(left + across + 0.18, head + cell * len(frames) + foot, caption)
    for column, row in enumerate(rows):
        label_row(sheet, left + (column + 0.5) * cell, head - 0.2, row, across=True)
    strip(
        sheet.axes(left, head, cell * len(rows), cell * len(frames)), [[row.panel(frame) for row in rows] for frame in frames]
    )
    _foot(sheet, left + 0.75, head + cell * len(frames) + 0.4, evidence)
    return sheet


def label_row(sheet: Sheet, x: float, y: float, row: Row, *, across: bool) -> None:
    """A row's title, its lower edge at (x, y) inches: to the left of the row, or `across`, above its column."""
    side = "center" if across else "right"
    sheet.text(x, y, row.title, ha=side, va="bottom", fontsize=9, color="black")
    about = row.about if across else row.about.replace(", ", ",\n", 1)
    sheet.text(x, y + 0.05, about, ha=side, va="top", fontsize=6.5, color=GREY)


def strip(axes: Axes, panels: list[list[np.ndarray]]) -> None:
    """Panels side by side as one picture: an axes each would take ten times as long to draw."""
    edge = ((GAP_PX, GAP_PX), (GAP_PX, GAP_PX), (0, 0))
    lines = [np.concatenate([np.pad(panel, edge, constant_values=255) for panel in line], axis=1) for line in panels]
    axes.imshow(np.concatenate(lines), interpolation="antialiased", aspect="auto")
    axes.set_axis_off()


def _foot(sheet: Sheet, left: float, top: float, evidence: Evidence) -> None:
    draw_layers(sheet.axes(left, top, 2.9, 0.58), evidence)
    draw_key(
        sheet.axes(left + 3.6, top - 0.25, 4.2, 0.9), points=bool(evidence.points), attention=evidence.attention is not None
    )


def draw_scores(axes: Axes, caption: Caption, *, frames: Sequence[int]) -> None:
    """P(fake) of each of `frames`, above its column."""
    scores = [caption.frame_scores[frame] for frame in frames]
    x = np.arange(len(frames)) + 0.5
    axes.axhline(caption.threshold, color=GREY, linewidth=0.8, linestyle="--")
    axes.plot(x, scores, color=INK, linewidth=1)
    axes.scatter(x, scores, c=[FAKE if score > caption.threshold else REAL for score in scores], s=18, zorder=3)
    axes.set(xlim=(0, len(frames)), ylim=(-0.08, 1.08), yticks=[0, 0.5, 1])
    axes.set_ylabel("P(fake) of\nthe frame", fontsize=7, color=INK)
    axes.tick_params(labelsize=6.5, length=2)
    every = max(1, -(-len(frames) // 16))  # more labels would run into each other
    axes.set_xticks(x[::every], [f"{caption.timestamps_s[frame]:.2f} s" for frame in frames[::every]])
    axes.tick_params(axis="x", length=0, pad=1)
    axes.spines["bottom"].set_visible(False)
