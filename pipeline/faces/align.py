"""From five landmarks (or a box) to the similarity transform that puts the face on the template.

The decision that shaped it: frames that lie close together share one transform. Aligning each frame by itself shakes the
picture by 1-2 px, about the size of the temporal cues that a detector looks for; one transform a clip shakes it by nothing.
The template is ArcFace's 112 px one (Deng et al. 2019, arXiv 1801.07698) seen with a margin, in DeepfakeBench's convention
(Yan et al. 2023, arXiv 2307.01426), so that a single frame gets DeepfakeBench's crop at margin 1.3.
"""

import numpy as np

from .boxes import box_centres, box_sides

__all__ = ["BOX_SCALE", "MARGIN_RATIO", "box_corners", "crop_corners", "fit_similarity", "template_points"]

MARGIN_RATIO = 1.3
ARCFACE_112 = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
BOX_SCALE = 1.34  # side of the template's crop at margin 1.3, in sides of a detector's box
BOX_LIFT = 0.07  # how far the template's centre lies above the box's, in sides of that crop


def template_points(size: int, margin_ratio: float = MARGIN_RATIO) -> np.ndarray:
    """Where the five landmarks come to lie in a (size, size) crop: (5, 2) float64 px, order as in `Detections`.

    margin_ratio: side of the crop in sides of ArcFace's own square.
    """
    margin = (margin_ratio - 1) / 2
    return (ARCFACE_112 / 112 + margin) / margin_ratio * size


def box_corners(boxes: np.ndarray, margin_ratio: float = MARGIN_RATIO) -> np.ndarray:
    """Corners of the upright square that stands in for the template where a face has no landmarks.

    boxes (K, 4) -> (K, 4, 2) px, clockwise from the top left. Its side is 1.34 times the longer side of the box (times
    margin_ratio / 1.3), and it lies 7 % of that side higher: measured for boxes of MTCNN and YuNet.
    """
    sides, centres = box_sides(boxes), box_centres(boxes).astype(np.float64)
    centres[:, 1] -= BOX_LIFT * BOX_SCALE * sides
    half = sides[:, None, None] * (BOX_SCALE * margin_ratio / MARGIN_RATIO / 2)
    return centres[:, None] + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])


def crop_corners(size: int) -> np.ndarray:
    """The corners of a (size, size) crop that `box_corners` are mapped to: (4, 2) px."""
    return np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float64)


def fit_similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The similarity (scale, turn, shift; no mirroring) that takes `points` nearest to `targets`, by least squares.

    points (N, 2), targets (N, 2) -> (2, 3) float64, to be used as targets = M @ (x, y, 1).
    Umeyama 1991 (IEEE PAMI 13(4), equations 40-42), which in the plane is a linear regression of complex numbers: with
    centred p and q, scale * exp(i * turn) = sum(conj(p) q) / sum(|p|^2).
    Raises ValueError if all points are the same.
    """
    p, q = (np.asarray(a, np.float64) @ (1, 1j) for a in (points, targets))
    middle_p, middle_q = p.mean(), q.mean()
    p, q = p - middle_p, q - middle_q
    spread = float((np.abs(p) ** 2).sum())
    if not spread > 0:
        raise ValueError("a similarity can't be fitted to points that all lie on one spot")
    turn = (p.conj() * q).sum() / spread
    shift = middle_q - turn * middle_p
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
