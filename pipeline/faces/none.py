"""The detector for media that are face crops already, such as DeepfakeBench's folders: it looks for nothing."""

from collections.abc import Sequence

import numpy as np

from .detections import Detections, make_detections

__all__ = ["NoDetector"]


class NoDetector:
    """Declares each image, as a whole, to be a face crop; `crop_faces` then only resizes it."""

    name = "none"
    digest = ""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """images: (H, W, 3) -> one box an image, the image itself, with `is_crop` set."""
        return [make_detections([[0, 0, i.shape[1], i.shape[0]]], [1.0], is_crop=True) for i in images]
