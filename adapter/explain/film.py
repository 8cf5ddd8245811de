"""A clip's evidence over time: all kinds of it side by side, one picture a frame, with the scores below and a mark where the film is.

The still parts are drawn once, and each frame's panels are put in pixel by pixel: matplotlib would take a second a frame for the same.
"""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np

from d2st.adapter.evaluate.plots import STYLE
from d2st.adapter.explain.evidence import Evidence
from d2st.adapter.explain.figure import Caption, Sheet, draw_scores, label_row
from d2st.adapter.explain.rows import evidence_rows

__all__ = ["evidence_film"]

DPI = 120
PANEL_PX, MARGIN_PX, HEAD_PX, SCORES_PX, FOOT_PX = 264, 18, 156, 84, 36
AXIS_PX = 72  # to the left of the scores
MARK = 0.82  # brightness of the column of scores that is shown


def evidence_film(crops: np.ndarray, evidence: Evidence, caption: Caption) -> Iterator[np.ndarray]:
    """One picture (H,W,3) uint8 RGB a frame of `crops` (T,S,S,3), all of one even size."""
    rows = evidence_rows(crops, evidence, side=PANEL_PX - 4)
    width = 2 * MARGIN_PX + PANEL_PX * len(rows)
    height = HEAD_PX + PANEL_PX + SCORES_PX + FOOT_PX
    left, top = MARGIN_PX + AXIS_PX, HEAD_PX + PANEL_PX + 14  # of the scores
    across, down = width - left - MARGIN_PX, SCORES_PX - 14
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        sheet = Sheet(width / DPI, height / DPI, caption, dpi=DPI)
        for column, row in enumerate(rows):
            label_row(sheet, (MARGIN_PX + (column + 0.5) * PANEL_PX) / DPI, (HEAD_PX - 24) / DPI, row, across=True)
        axes = sheet.axes(left / DPI, top / DPI, across / DPI, down / DPI)
        draw_scores(axes, caption, frames=range(len(crops)))
        still = sheet.pixels()[:height, :width]
    edges = np.rint(left + across * np.arange(len(crops) + 1) / len(crops)).astype(int)
    for frame in range(len(crops)):
        picture = still.copy()
        for column, row in enumerate(rows):
            begin = MARGIN_PX + column * PANEL_PX + 2
            picture[HEAD_PX + 2 : HEAD_PX + PANEL_PX - 2, begin : begin + PANEL_PX - 4] = row.panel(frame)
        part = picture[top : top + down, edges[frame] : edges[frame + 1]]
        part[...] = (part * MARK).astype(np.uint8)
        yield picture
