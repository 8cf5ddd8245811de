"""Does a map point at what was manipulated? The pointing game, and how much of the map's evidence lies inside.

Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018: a hit is a map whose highest point lies in the mask, or
within 15 px of it; VOC's pictures are about 500 px wide, so the tolerance here is 3 % of the crop's side. What chance gives is the share
of the crop where that holds, and is told beside it. Manipulated regions lie in the middle of an aligned crop: a map that always points
there does well too, and whoever reads a score should know how well.
"""

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Pointing", "crop_masks", "pointing"]

TOLERANCE_RATIO = 0.03  # of the crop's side
TOUCHED = 0.2  # mask values from here on count as manipulated: the seam of a blend too


@dataclass(frozen=True)
class Pointing:
    """Of one clip. hit: its highest point lies in the mask; chance: share of pixels of which that is true; energy: share of the map's
    positive part that lies inside; area: share of the clip that the mask covers, which is what an even map gives."""

    hit: bool
    chance: float
    energy: float
    area: float


def pointing(importance: np.ndarray, masks: np.ndarray) -> Pointing:
    """Compare a map (T,H,W) of any grid with masks (T,S,S) in 0..1 of the crops."""
    side = masks.shape[1]
    inside = masks >= TOUCHED
    reach = 2 * round(TOLERANCE_RATIO * side) + 1
    round_px = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    near = np.stack([cv2.dilate(mask.astype(np.uint8), round_px) for mask in inside]).astype(bool)
    large = np.stack(
        [cv2.resize(frame.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) for frame in importance]
    )
    towards = np.maximum(large, 0)
    total = float(towards.sum())
    return Pointing(
        hit=bool(near.ravel()[large.argmax()]),
        chance=float(near.mean()),
        energy=float(towards[inside].sum() / total) if total else 0.0,
        area=float(inside.mean()),
    )


def crop_masks(masks: np.ndarray, matrices: np.ndarray, *, frame_side: int, side: int) -> np.ndarray:
    """Masks of whole frames as masks of their crops, (T,side,side) float32.

    Args:
        masks: (T,M,M) float32, each over a square frame of `frame_side` px.
        matrices: (T,2,3) from px of the frame to px of the crop.
    """
    cell = frame_side / masks.shape[1]  # frame px a mask cell: x_frame = cell * x_mask + (cell - 1) / 2
    found = []
    for mask, matrix in zip(masks, matrices, strict=True):
        turn = matrix[:, :2]
        step = np.concatenate([turn * cell, (turn.sum(axis=1) * (cell - 1) / 2 + matrix[:, 2])[:, None]], axis=1)
        found.append(cv2.warpAffine(mask, step, (side, side), flags=cv2.INTER_LINEAR))
    return np.stack(found)
