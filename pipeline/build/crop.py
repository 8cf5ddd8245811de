"""One sample's frames into face crops. The build and `d2st predict` both call this, so that cached and direct scores agree."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from d2st.pipeline.faces import Detections, FaceDetector, crop_faces
from d2st.pipeline.media import Frames

__all__ = ["NEIGHBOUR_GAP_S", "CropSettings", "crop_frames", "declared_crops"]

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
    detections = given if given is not None else detector.detect(frames.images)
    gaps = np.diff(frames.timestamps_s)
    align = "clip" if len(gaps) and float(np.median(gaps)) < NEIGHBOUR_GAP_S else "frame"
    crops = crop_faces(
        frames.images, frames.timestamps_s, detections, size=settings.size, margin_ratio=settings.margin_ratio, align=align
    )
    info = {
        "indices": [frames.indices[k] for k in crops.kept],
        "timestamps_s": [round(frames.timestamps_s[k], 6) for k in crops.kept],
        "decoded": len(frames.images),
        "media": asdict(frames.info),
        "face": {**crops.report, "align": align, "given": given is not None},
    }
    return crops.images, info
