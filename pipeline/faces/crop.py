"""From frames and the faces found in them to crops of the face, or of each face, that could be followed: the crops that go into the cache.

What a crop's pixels are is `cut_track`'s matter; which face, and in which frames, is decided here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from d2st.cache.errors import ConfigError, MediaError

from .align import MARGIN_RATIO
from .cut import FaceCrops, cut_track, resize_crops
from .detections import Detections
from .look import face_looks
from .track import Track, choose_track, link_tracks

__all__ = ["crop_all_faces", "crop_faces"]

MIN_VISIBLE_RATIO = 0.25  # of a face's box; a box beyond the frame would give a crop of nothing but repeated edge
MIN_COVERAGE_RATIO = 1 / 3  # of the frames, so that edited footage with a few shots still gives its longest one
Align = Literal["clip", "frame"]


def crop_faces(
    images: Sequence[np.ndarray],
    timestamps_s: Sequence[float],
    detections: Sequence[Detections],
    *,
    size: int,
    margin_ratio: float = MARGIN_RATIO,
    align: Align = "clip",
    min_score: float = 0.0,
    min_coverage_ratio: float = MIN_COVERAGE_RATIO,
) -> FaceCrops:
    """Follow the main face through T frames of (H, W, 3) uint8 RGB and cut it out, size x size px each.

    align: "clip" fits one transform to the landmarks averaged over the frames, "frame" one to each frame; for T = 1 they
    are the same. (A fit to all frames' points at once takes movement for size and shrinks the face of a moving head.)
    Frames that the face's track doesn't cover are left out. Faces below min_score, or with less than a quarter of their box
    within the frame, are not looked at.
    Raises MediaError "no_face" if no frame shows a face, "face_lost" if the best track covers less than min_coverage_ratio
    of the frames (a third, so that edited footage with a few shots still gives its longest one), "too_large" as `cut_out` does.
    """
    _check(images, timestamps_s, detections, align)
    if all(found.is_crop for found in detections):
        return resize_crops(images, size)
    tracks, faces_max = _follow(images, timestamps_s, detections, min_score=min_score)
    track = choose_track(tracks, len(images))
    if len(track.positions) / len(images) < min_coverage_ratio:
        seen = f"the best of {len(tracks)} tracks covers {len(track.positions)} of {len(images)} sampled frames"
        raise MediaError("face_lost", f"no face could be followed: {seen}")
    return cut_track(images, track, size=size, margin_ratio=margin_ratio, align=align, faces_max=faces_max, tracks=len(tracks))


def crop_all_faces(
    images: Sequence[np.ndarray],
    timestamps_s: Sequence[float],
    detections: Sequence[Detections],
    *,
    size: int,
    margin_ratio: float = MARGIN_RATIO,
    align: Align = "clip",
) -> list[tuple[Track, FaceCrops | None]]:
    """Every track in the frames, in the order in which they begin, with its crops, or None where it covers less than a third of the frames.

    The arguments, and what is done to each face, are those of `crop_faces`. Raises MediaError "no_face" if no frame shows a face.
    """
    _check(images, timestamps_s, detections, align)
    if all(found.is_crop for found in detections):
        crops = resize_crops(images, size)
        return [(Track(list(crops.kept), list(crops.boxes)), crops)]
    tracks, faces_max = _follow(images, timestamps_s, detections, min_score=0.0)

    def cut(track: Track) -> FaceCrops | None:
        if len(track.positions) / len(images) < MIN_COVERAGE_RATIO:
            return None
        return cut_track(
            images, track, size=size, margin_ratio=margin_ratio, align=align, faces_max=faces_max, tracks=len(tracks)
        )

    return [(track, cut(track)) for track in tracks]


def _check(images: Sequence[np.ndarray], timestamps_s: Sequence[float], detections: Sequence[Detections], align: str) -> None:
    if align not in ("clip", "frame"):
        raise ConfigError(f"align must be 'clip' or 'frame', not {align!r}")
    if not len(images) == len(timestamps_s) == len(detections) > 0:
        counts = f"{len(images)} images, {len(timestamps_s)} timestamps, {len(detections)} detections"
        raise ValueError(f"crop_faces needs as many of each, and at least one: {counts}")


def _follow(
    images: Sequence[np.ndarray], timestamps_s: Sequence[float], detections: Sequence[Detections], *, min_score: float
) -> tuple[list[Track], int]:
    """The tracks, and the most faces in one frame. Raises MediaError "no_face"."""
    detections = [_usable(found, image, min_score) for found, image in zip(detections, images, strict=True)]
    faces_max = max(map(len, detections))
    if faces_max == 0:
        raise MediaError("no_face", f"no face in any of {len(images)} sampled frames")
    looks = [face_looks(image, found.boxes) for image, found in zip(images, detections, strict=True)]
    return link_tracks(detections, timestamps_s, looks=looks), faces_max


def _usable(found: Detections, image: np.ndarray, min_score: float) -> Detections:
    """The faces with a good enough score that are well enough within the frame."""
    h, w = image.shape[:2]
    inside = np.clip(found.boxes, 0, [w, h, w, h])
    areas, visible = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (found.boxes, inside))
    good = (found.scores >= min_score) & (visible >= MIN_VISIBLE_RATIO * areas) & (areas > 0)
    return Detections(found.boxes[good], found.scores[good], found.landmarks[good])
