"""One sample's frames into face crops. The build and `d2st predict` both call this, so that cached and direct scores agree."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from d2st.pipeline.faces import Detections, FaceCrops, FaceDetector, Track, crop_all_faces, crop_faces
from d2st.pipeline.media import Frames

__all__ = ["NEIGHBOUR_GAP_S", "CropSettings", "crop_every", "crop_frames", "crop_main", "declared_crops"]

# Frames closer than this show one head pose in motion: aligning each alone would shake the crop by 1-2 px, about the size of the temporal
# cue, so they share one transform. Frames further apart get one each.
NEIGHBOUR_GAP_S = 0.25

CROPS_VERSION = 1  # part of the fingerprint: raise it whenever decoding, tracking or cropping changes pixels


@dataclass(frozen=True)
class CropSettings:
    """How media become crops.

    Attributes:
        frames: T, frames taken from a video (an image gives one).
        sampling: "even" over the whole video, or "clip" of neighbouring frames.
        size: side of a crop in pixels.
        margin_ratio: side of the crop over the side of the ArcFace template's square.
    """

    frames: int = 12
    sampling: str = "even"
    size: int = 224
    margin_ratio: float = 1.3


def declared_crops(settings: CropSettings, detector: FaceDetector) -> dict[str, Any]:
    """What the crops depend on, as JSON values for the fingerprint."""
    return {
        "version": CROPS_VERSION,
        **asdict(settings),
        "neighbour_gap_s": NEIGHBOUR_GAP_S,
        "detector": detector.name,
        "detector_digest": detector.digest,
    }


def crop_frames(
    frames: Frames, detector: FaceDetector, settings: CropSettings, given: list[Detections] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Follow one face through the frames and cut it out.

    Args:
        frames: what the decoder gave, T frames or fewer.
        detector: asked for faces unless `given` has them.
        settings: size, margin.
        given: faces from the manifest or a sidecar, one entry a frame.

    Returns:
        crops (T',S,S,3) uint8 with T' <= T, and what is to be remembered of the sample (JSON values).

    Raises:
        MediaError: no face, or none that could be followed.
    """
    crops, info = crop_main(frames, detector, settings, given)
    return crops.images, info


def crop_main(
    frames: Frames, detector: FaceDetector, settings: CropSettings, given: list[Detections] | None = None
) -> tuple[FaceCrops, dict[str, Any]]:
    """What `crop_frames` does, with the places that the crops were cut from. Raises MediaError."""
    detections = given if given is not None else detector.detect(frames.images)
    align = _align(frames)
    crops = crop_faces(
        frames.images, frames.timestamps_s, detections, size=settings.size, margin_ratio=settings.margin_ratio, align=align
    )
    return crops, _info(frames, crops, align, given=given is not None)


def crop_every(
    frames: Frames, detector: FaceDetector, settings: CropSettings, given: list[Detections] | None = None
) -> list[tuple[Track, FaceCrops | None, dict[str, Any]]]:
    """Every face that could be followed, in the order in which they appear, cut out as `crop_frames` does with the main one.

    A track that covers less than a third of the frames has no crops; it may be part of a face that goes on. Raises MediaError "no_face".
    """
    detections = given if given is not None else detector.detect(frames.images)
    align = _align(frames)
    found = crop_all_faces(
        frames.images, frames.timestamps_s, detections, size=settings.size, margin_ratio=settings.margin_ratio, align=align
    )
    return [(track, cut, {} if cut is None else _info(frames, cut, align, given=given is not None)) for track, cut in found]


def _align(frames: Frames) -> Literal["clip", "frame"]:
    gaps = np.diff(frames.timestamps_s)
    return "clip" if len(gaps) and float(np.median(gaps)) < NEIGHBOUR_GAP_S else "frame"


def _info(frames: Frames, crops: FaceCrops, align: str, *, given: bool) -> dict[str, Any]:
    return {
        "indices": [frames.indices[k] for k in crops.kept],
        "timestamps_s": [round(frames.timestamps_s[k], 6) for k in crops.kept],
        "decoded": len(frames.images),
        "media": asdict(frames.info),
        "face": {**crops.report, "align": align, "given": given},
    }
