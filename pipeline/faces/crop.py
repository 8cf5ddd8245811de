"""Cut the followed face out of the frames: the crops that go into the cache.

Two decisions. Outside the frame the edge is repeated (`BORDER_REPLICATE`): a mirrored border puts a second, upside-down face
above a head that touches the edge. And the picture is warped onto a grid fine enough to take every source pixel (bilinear, at
most one source pixel a step) and then averaged down by a whole factor, since a plain bilinear warp of a 600 px face to 112 px
reads one pixel in twenty and turns the rest into moire; DeepfakeBench warps plainly. The factor is chosen once a sample, so
that sharpness doesn't flicker; it is 1 where faces are enlarged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import cv2
import numpy as np

from d2st.cache.errors import ConfigError, MediaError

from .align import MARGIN_RATIO, box_corners, crop_corners, fit_similarity, template_points
from .detections import Detections
from .look import face_looks
from .track import Track, choose_track, link_tracks

__all__ = ["FaceCrops", "crop_faces"]

UPSCALED_ABOVE = 2.0
MIN_VISIBLE_RATIO = 0.25  # of a face's box; a box beyond the frame would give a crop of nothing but repeated edge
MAX_SIDE_RATIO = 2.5  # between the crop that landmarks ask for and the one that the box does; beyond it they are nonsense


@dataclass(frozen=True)
class FaceCrops:
    """images (T', S, S, 3) uint8 RGB; kept: positions of the input frames they came from; report: plain values for JSON.

    The report's fields: frames, kept, interpolated (frames in which the face was placed between its neighbours), coverage
    (kept / frames), score (mean of the detector's), faces_max (in one frame), tracks, aligned_by ("landmarks", "box" or
    "none"), upscale (largest enlargement, crop px a source px), upscaled (is it above 2), outside (largest share of a crop
    that lies outside its frame).
    """

    images: np.ndarray
    kept: tuple[int, ...]
    report: dict


def crop_faces(
    images: Sequence[np.ndarray],
    timestamps_s: Sequence[float],
    detections: Sequence[Detections],
    *,
    size: int,
    margin_ratio: float = MARGIN_RATIO,
    align: Literal["clip", "frame"] = "clip",
    min_score: float = 0.0,
    min_coverage_ratio: float = 1 / 3,
) -> FaceCrops:
    """Follow the main face through T frames of (H, W, 3) uint8 RGB and cut it out, size x size px each.

    align: "clip" fits one transform to the landmarks averaged over the frames, "frame" one to each frame; for T = 1 they
    are the same. (A fit to all frames' points at once takes movement for size and shrinks the face of a moving head.)
    Frames that the face's track doesn't cover are left out. Faces below min_score, or with less than a quarter of their box
    within the frame, are not looked at.
    Raises MediaError "no_face" if no frame shows a face, "face_lost" if the best track covers less than min_coverage_ratio
    of the frames (a third, so that edited footage with a few shots still gives its longest one).
    """
    if align not in ("clip", "frame"):
        raise ConfigError(f"align must be 'clip' or 'frame', not {align!r}")
    if not len(images) == len(timestamps_s) == len(detections) > 0:
        counts = f"{len(images)} images, {len(timestamps_s)} timestamps, {len(detections)} detections"
        raise ValueError(f"crop_faces needs as many of each, and at least one: {counts}")
    if all(found.is_crop for found in detections):
        return _resize_crops(images, size)
    detections = [_usable(found, image, min_score) for found, image in zip(detections, images, strict=True)]
    faces_max = max(map(len, detections))
    if faces_max == 0:
        raise MediaError("no_face", f"no face in any of {len(images)} sampled frames")
    looks = [face_looks(image, found.boxes) for image, found in zip(images, detections, strict=True)]
    tracks = link_tracks(detections, timestamps_s, looks=looks)
    track = choose_track(tracks, len(images))
    coverage = len(track.positions) / len(images)
    if coverage < min_coverage_ratio:
        seen = f"the best of {len(tracks)} tracks covers {len(track.positions)} of {len(images)} sampled frames"
        raise MediaError("face_lost", f"no face could be followed: {seen}")
    matrices, aligned_by = _fit(track, size, margin_ratio, align)
    sources = [images[p] for p in track.positions]
    scales = [float(np.hypot(m[0, 0], m[1, 0])) for m in matrices]  # crop px a source px
    factor = max(ceil(round(1 / min(scales), 6)), 1)
    crops = [_warp(image, m, size, factor) for image, m in zip(sources, matrices, strict=True)]
    report = {
        "frames": len(images),
        "kept": len(crops),
        "interpolated": len(track.interpolated),
        "coverage": round(coverage, 4),
        "score": round(float(np.mean(track.scores)), 4),
        "faces_max": faces_max,
        "tracks": len(tracks),
        "aligned_by": aligned_by,
        "upscale": round(max(scales), 3),
        "upscaled": max(scales) > UPSCALED_ABOVE,
        "outside": round(max(_outside(s.shape, m, size) for s, m in zip(sources, matrices, strict=True)), 3),
    }
    return FaceCrops(np.stack(crops), tuple(track.positions), report)


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


def _usable(found: Detections, image: np.ndarray, min_score: float) -> Detections:
    """The faces with a good enough score that are well enough within the frame."""
    h, w = image.shape[:2]
    inside = np.clip(found.boxes, 0, [w, h, w, h])
    areas, visible = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (found.boxes, inside))
    good = (found.scores >= min_score) & (visible >= MIN_VISIBLE_RATIO * areas) & (areas > 0)
    return Detections(found.boxes[good], found.scores[good], found.landmarks[good])


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


def _resize_crops(images: Sequence[np.ndarray], size: int) -> FaceCrops:
    """Ready-made crops: made square by repeating the edges of their short side, then resized (area averaging, or bicubic to enlarge)."""
    crops, upscale = [], 0.0
    for image in images:
        h, w = image.shape[:2]
        n = max(h, w)
        top, left = (n - h) // 2, (n - w) // 2
        if h != w:
            image = cv2.copyMakeBorder(image, top, n - h - top, left, n - w - left, cv2.BORDER_REPLICATE)
        crops.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if n > size else cv2.INTER_CUBIC))
        upscale = max(upscale, size / n)
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
    return FaceCrops(np.stack(crops), tuple(range(len(images))), report)
