"""Cut one followed face out of the frames, pixel by pixel.

Two decisions. Outside the frame the edge is repeated (`BORDER_REPLICATE`): a mirrored border puts a second, upside-down face
above a head that touches the edge. And the picture is warped onto a grid fine enough to take every source pixel (bilinear, at
most one source pixel a step) and then averaged down by a whole factor, since a plain bilinear warp of a 600 px face to 112 px
reads one pixel in twenty and turns the rest into moire; DeepfakeBench warps plainly. The factor is chosen once a sample, so
that sharpness doesn't flicker; it is 1 where faces are enlarged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from d2st.cache.errors import MediaError

from .align import box_corners, crop_corners, fit_similarity, template_points
from .track import Track

__all__ = ["FaceCrops", "cut_out", "cut_track", "resize_crops"]

UPSCALED_ABOVE = 2.0
MAX_SIDE_PX = 24_000  # of the square that a crop is made from; a face that fills the largest picture that is read needs less
MAX_SIDE_RATIO = 2.5  # between the crop that landmarks ask for and the one that the box does; beyond it they are nonsense


@dataclass(frozen=True)
class FaceCrops:
    """images (T', S, S, 3) uint8 RGB; kept: positions of the input frames they came from; report: plain values for JSON; boxes (T', 4)
    float32, where the face lies in each source frame (px); matrices (T', 2, 3) float64, from source px to crop px: crop = M @ (x, y, 1).

    The report's fields: frames, kept, interpolated (frames in which the face was placed between its neighbours), coverage
    (kept / frames), score (mean of the detector's), faces_max (in one frame), tracks, aligned_by ("landmarks", "box" or
    "none"), upscale (largest enlargement, crop px a source px), upscaled (is it above 2), outside (largest share of a crop
    that lies outside its frame).
    """

    images: np.ndarray
    kept: tuple[int, ...]
    report: dict
    boxes: np.ndarray
    matrices: np.ndarray


def cut_track(
    images: Sequence[np.ndarray], track: Track, *, size: int, margin_ratio: float, align: str, faces_max: int, tracks: int
) -> FaceCrops:
    """The crops of `track`, one a position that it covers; `align` as for `crop_faces`. faces_max, tracks: for the report."""
    matrices, aligned_by = _fit(track, size, margin_ratio, align)
    sources = [images[p] for p in track.positions]
    scales = _scales(matrices)
    crops = cut_out(sources, matrices, size=size)
    report = {
        "frames": len(images),
        "kept": len(crops),
        "interpolated": len(track.interpolated),
        "coverage": round(len(track.positions) / len(images), 4),
        "score": round(float(np.mean(track.scores)), 4),
        "faces_max": faces_max,
        "tracks": tracks,
        "aligned_by": aligned_by,
        "upscale": round(max(scales), 3),
        "upscaled": max(scales) > UPSCALED_ABOVE,
        "outside": round(max(_outside(s.shape, m, size) for s, m in zip(sources, matrices, strict=True)), 3),
    }
    boxes = np.stack(track.boxes).astype(np.float32)
    return FaceCrops(crops, tuple(track.positions), report, boxes, np.stack(matrices))


def cut_out(images: Sequence[np.ndarray], matrices: Sequence[np.ndarray], *, size: int) -> np.ndarray:
    """The crops (T, size, size, 3) of T frames by transforms that are known, (2, 3) each, from source px to crop px.

    Raises MediaError "too_large" where that takes a square of more than MAX_SIDE_PX: one box over a picture of 60,000 x 100 px, say.
    """
    factor = max(ceil(round(1 / min(_scales(matrices)), 6)), 1)
    _check_side(size * factor)
    return np.stack([_warp(image, m, size, factor) for image, m in zip(images, matrices, strict=True)])


def _check_side(side: int) -> None:
    if side > MAX_SIDE_PX:
        raise MediaError("too_large", f"a face crop would be made from a square of {side} px; {MAX_SIDE_PX} are possible")


def _scales(matrices: Sequence[np.ndarray]) -> list[float]:
    """Crop px a source px, of each."""
    return [float(np.hypot(m[0, 0], m[1, 0])) for m in matrices]


def _fit(track: Track, size: int, margin_ratio: float, align: str) -> tuple[list[np.ndarray], str]:
    """One (2, 3) source-to-crop transform a position of the track, and what they were fitted to."""
    points, aligned_by = np.stack(track.landmarks), "landmarks"
    targets = template_points(size, margin_ratio)
    corners = box_corners(np.stack(track.boxes), margin_ratio)
    # one face without landmarks that make sense: boxes for all, lest the crop jump between two rules
    if not all(_credible(p, c, targets, size) for p, c in zip(points, corners, strict=True)):
        points, aligned_by = corners, "box"
        targets = crop_corners(size)
    if align == "frame":
        return [fit_similarity(p, targets) for p in points], aligned_by
    seen = [p not in track.interpolated for p in track.positions]
    return [fit_similarity(points[seen].mean(axis=0), targets)] * len(points), aligned_by


def _credible(points: np.ndarray, corners: np.ndarray, targets: np.ndarray, size: int) -> bool:
    """Whether landmarks (5, 2) are there, and ask for a crop of about the size that the box asks for."""
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() == 0:
        return False
    scale = float(np.hypot(*fit_similarity(points, targets)[:, 0]))
    ratio = scale * float(np.linalg.norm(corners[1] - corners[0])) / size
    return 1 / MAX_SIDE_RATIO <= ratio <= MAX_SIDE_RATIO


def _warp(image: np.ndarray, matrix: np.ndarray, size: int, factor: int) -> np.ndarray:
    """Warp onto a grid `factor` times as fine, then average each factor x factor cell: (size, size, 3) uint8."""
    fine = matrix * factor
    fine[:, 2] += (factor - 1) / 2  # pixel centres: crop px x is the middle of fine px factor * x ... factor * x + factor - 1
    side = (size * factor, size * factor)
    picture = cv2.warpAffine(image, fine, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return picture if factor == 1 else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def _outside(shape: tuple[int, ...], matrix: np.ndarray, size: int) -> float:
    """The share of a crop that has no source pixel, on a grid of 32 x 32 points."""
    ticks = (np.arange(32) + 0.5) * size / 32
    x, y = np.meshgrid(ticks, ticks)
    back = cv2.invertAffineTransform(matrix)
    sx, sy = (row[0] * x + row[1] * y + row[2] for row in back)
    return float(1 - ((sx >= -0.5) & (sy >= -0.5) & (sx <= shape[1] - 0.5) & (sy <= shape[0] - 0.5)).mean())


def resize_crops(images: Sequence[np.ndarray], size: int) -> FaceCrops:
    """Ready-made crops: made square by repeating the edges of their short side, then resized (area averaging, or bicubic to enlarge).

    Raises MediaError "too_large" for a side of more than MAX_SIDE_PX.
    """
    crops, matrices, boxes, upscale = [], [], [], 0.0
    for image in images:
        h, w = image.shape[:2]
        n = max(h, w)
        _check_side(n)
        top, left = (n - h) // 2, (n - w) // 2
        if h != w:
            image = cv2.copyMakeBorder(image, top, n - h - top, left, n - w - left, cv2.BORDER_REPLICATE)
        crops.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if n > size else cv2.INTER_CUBIC))
        upscale = max(upscale, size / n)
        scale = size / n
        shift = [(offset + 0.5) * scale - 0.5 for offset in (left, top)]  # pixel centres lie on whole numbers
        matrices.append([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])
        boxes.append([0.0, 0.0, w, h])
    report = {
        "frames": len(images),
        "kept": len(images),
        "interpolated": 0,
        "coverage": 1.0,
        "score": 1.0,
        "faces_max": 1,
        "tracks": 1,
        "aligned_by": "none",
        "upscale": round(upscale, 3),
        "upscaled": upscale > UPSCALED_ABOVE,
        "outside": 0.0,
    }
    return FaceCrops(
        np.stack(crops), tuple(range(len(images))), report, np.array(boxes, np.float32), np.array(matrices, np.float64)
    )
