"""Windows of MTCNN's cascade: cutting them out of a picture, suppressing their neighbours, applying regressions.

A window is a box x0, y0, x1, y1 in px between the *edges* of pixels: pixel 0 reaches from 0 to 1.
"""

from math import log2

import cv2
import numpy as np
import torch
from torchvision.ops import nms

__all__ = ["cut", "halvings", "shift_boxes", "shrink", "suppress"]

GREY = (128, 128, 128)  # nearest to the networks' zero
SHORTEST_PX = 24


def shrink(image: np.ndarray, long_side: int) -> np.ndarray:
    """The image with its long side at most `long_side` px, area-averaged; the image itself if it is small enough."""
    h, w = image.shape[:2]
    scale = long_side / max(h, w)
    if scale >= 1:
        return image
    return cv2.resize(image, (max(1, round(w * scale)), max(1, round(h * scale))), interpolation=cv2.INTER_AREA)


def halvings(image: np.ndarray) -> list[np.ndarray]:
    """The image, its half, its quarter, ..., down to a short side of at least 24 px; area-averaged, odd sides rounded up."""
    pictures = [image]
    while min(pictures[-1].shape[:2]) >= 2 * SHORTEST_PX:
        h, w = pictures[-1].shape[:2]
        pictures.append(cv2.resize(pictures[-1], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA))
    return pictures


def cut(pictures: list[np.ndarray], box: np.ndarray, side: int) -> np.ndarray:
    """A square box of `halvings(image)`, to fractions of a pixel, as (side, side, 3) uint8; grey outside of the image.

    It is read bilinearly from the halving with one to two px a px of the result (as many as there are), which is much faster
    than averaging the full picture and shows no aliasing to speak of.
    """
    n = max(float(box[2] - box[0]), 1.0)
    level = min(max(int(log2(n / side)), 0), len(pictures) - 1)
    picture, full = pictures[level], pictures[0]
    matrix = np.zeros((2, 3))
    for axis in (0, 1):  # x, y; a window counts from the edge of pixel 0, a warp from its centre
        shrunk = picture.shape[1 - axis] / full.shape[1 - axis]
        matrix[axis, axis] = side / (n * shrunk)
        matrix[axis, 2] = (0.5 - float(box[axis]) * shrunk) * matrix[axis, axis] - 0.5
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=GREY)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression by intersection over union: indices of the float32 (K, 4) boxes to keep, best first."""
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()


def shift_boxes(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Apply regressions (K, 4), in units of each box's width and height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + shifts * np.tile(sides, 2)
