"""The image pyramid of MTCNN's first network, laid out on one canvas.

P-Net is fully convolutional, so all levels of an image are packed side by side on one canvas and one pass reads them all:
six small passes become one, which is what makes small frames fast. Windows that straddle two levels are masked out. The
layout is a pure function of the image's size.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import cv2
import numpy as np

from .mtcnn_nets import PNET_CELL, PNET_STRIDE

__all__ = ["Pyramid", "lay_pyramid", "paint_pyramid"]

STEP = 0.709  # the paper's: half the area a level


@dataclass(frozen=True)
class Pyramid:
    """levels (L, 4) int: y, x, height, width of each level on the canvas, in px; scales (L, 2): image px a level px, x then y.

    cells (h, w) int8: which level the P-Net window of each output cell lies in, -1 for windows that are not within one.
    """

    height: int
    width: int
    levels: np.ndarray
    scales: np.ndarray
    cells: np.ndarray


@lru_cache(maxsize=256)
def lay_pyramid(height: int, width: int, min_face_px: int) -> Pyramid | None:
    """The levels of a (height, width) image whose faces are `min_face_px` or larger; None if no such face fits in."""
    sizes, scale = [], PNET_CELL / min_face_px
    while min(height, width) * scale >= PNET_CELL:
        sizes.append((ceil(height * scale), ceil(width * scale)))
        scale *= STEP
    if not sizes:
        return None
    trials = [_shelves(sizes, sizes[0][1] + _even(extra)) for extra in (0, *(w for _, w in sizes[1:]))]
    spots, canvas_h, canvas_w = min(trials, key=lambda trial: trial[1] * trial[2])
    cells = np.full(((canvas_h - PNET_CELL) // PNET_STRIDE + 1, (canvas_w - PNET_CELL) // PNET_STRIDE + 1), -1, np.int8)
    for level, ((y, x), (h, w)) in enumerate(zip(spots, sizes, strict=True)):
        rows, columns = ((n - PNET_CELL) // PNET_STRIDE + 1 for n in (h, w))
        cells[y // PNET_STRIDE :, x // PNET_STRIDE :][:rows, :columns] = level
    levels = np.array([(*spot, *size) for spot, size in zip(spots, sizes, strict=True)])
    return Pyramid(canvas_h, canvas_w, levels, np.array([(width / w, height / h) for h, w in sizes]), cells)


def paint_pyramid(pictures: list[np.ndarray], pyramid: Pyramid) -> np.ndarray:
    """The canvas (height, width, 3) uint8 of an image and its halvings; each level is averaged from the nearest larger one."""
    canvas = np.full((pyramid.height, pyramid.width, 3), 128, np.uint8)
    for y, x, h, w in pyramid.levels:
        source = next(p for p in reversed(pictures) if p.shape[0] >= h and p.shape[1] >= w)
        canvas[y : y + h, x : x + w] = cv2.resize(source, (int(w), int(h)), interpolation=cv2.INTER_AREA)
    return canvas


def _even(n: int) -> int:
    return n + n % 2  # P-Net's stride is 2: even corners keep every level's windows on its grid


def _shelves(sizes: list[tuple[int, int]], width: int) -> tuple[list[tuple[int, int]], int, int]:
    """First-fit shelf packing of (height, width) sizes, tallest first, onto a canvas of this width: corners, height, width."""
    width, top, shelves, spots = _even(width), 0, [], []  # a shelf is [y, height, first free x]
    for h, w in sizes:
        shelf = next((s for s in shelves if s[1] >= h and s[2] + w <= width), None)
        if shelf is None:
            shelf = [top, _even(h), 0]
            shelves.append(shelf)
            top += shelf[1]
        spots.append((shelf[0], shelf[2]))
        shelf[2] += _even(w)
    return spots, top, width
