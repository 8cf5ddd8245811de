"""Arithmetic on boxes, (K, 4) arrays of x0, y0, x1, y1 in px."""

import numpy as np

__all__ = ["box_centres", "box_sides", "iou", "keep_separate", "make_square"]


def box_sides(boxes: np.ndarray) -> np.ndarray:
    """The longer side of each box, (K,)."""
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1)


def box_centres(boxes: np.ndarray) -> np.ndarray:
    """(K, 2) x, y."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def make_square(boxes: np.ndarray) -> np.ndarray:
    """Squares with the same centres and the longer sides."""
    centres, half = box_centres(boxes), box_sides(boxes)[:, None] / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (K, 4), (M, 4) -> (K, M); 0 for boxes without area."""
    shared, areas_a, areas_b = _overlaps(first, second)
    union = areas_a[:, None] + areas_b - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def keep_separate(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices, best first, of boxes of which less than `threshold` lies in a better box, or the other way round.

    Non-maximum suppression by intersection over the *smaller* area, as MTCNN's last stage has it: it also drops a box around
    a nose within a face.
    """
    order = np.argsort(-scores, kind="stable")
    shared, areas, _ = _overlaps(boxes, boxes)
    smaller = np.minimum(areas[:, None], areas)
    within = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
    kept: list[int] = []
    for k in order:
        if not kept or within[k, kept].max() <= threshold:
            kept.append(int(k))
    return np.array(kept, np.int64)


def _overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    areas = [np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (first, second)]
    return np.prod(np.clip(high - low, 0, None), axis=2), *areas
