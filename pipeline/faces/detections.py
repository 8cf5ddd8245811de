"""What a face detector is and what it gives: the types that detectors, tracking and cropping share.

Coordinates are pixels of the image that was handed in, x to the right, y down, with pixel (0, 0) centred on (0, 0) as in
`cv2.warpAffine`. "Left" and "right" are as seen in the picture: on an upright face the left eye has the smaller x.
A face without landmarks has NaN there, so that one array type serves detectors, manifests and sidecar files alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Detections", "FaceDetector", "make_detections"]


@dataclass(frozen=True)
class Detections:
    """The K faces of one image, best first.

    boxes (K, 4) float32: x0, y0, x1, y1 in px; may reach beyond the image.
    scores (K,) float32 in 0..1.
    landmarks (K, 5, 2) float32 px: left eye, right eye, nose, left and right mouth corner; NaN where unknown.
    is_crop: the image as a whole is a face crop already (detector "none"); it is resized and not searched.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    is_crop: bool = False

    def __len__(self) -> int:
        return len(self.scores)


class FaceDetector(Protocol):
    """Finds faces. `digest` is the hex digest of its weights ("" if it has none) and goes into the cache's fingerprint.

    A build calls `detect` from several threads at once.
    """

    name: str
    digest: str

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """One `Detections` an image, in order. Images are (H, W, 3) uint8 RGB and may differ in size."""
        ...


def make_detections(boxes=(), scores=(), landmarks=(), *, is_crop: bool = False) -> Detections:
    """`Detections` from anything array-like, in the contract's shapes and types; with no arguments: no face."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    points = np.asarray(landmarks, np.float32).reshape(-1, 5, 2)
    if len(points) == 0:
        points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    return Detections(boxes, np.asarray(scores, np.float32).reshape(-1), points, is_crop)
