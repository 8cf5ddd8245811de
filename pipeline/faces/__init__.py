"""Faces: find them, follow one through the frames, and cut it out steadily.

`build_detector(...).detect(images)`, or `given_detections(...)` where the user knows the faces, then `crop_faces(...)`.
"""

from .crop import FaceCrops, crop_faces
from .detections import Detections, FaceDetector
from .given import given_detections, sidecar_path
from .registry import build_detector, detector_names

__all__ = [
    "Detections",
    "FaceCrops",
    "FaceDetector",
    "build_detector",
    "crop_faces",
    "detector_names",
    "given_detections",
    "sidecar_path",
]
