"""Faces: find them, follow one through the frames, and cut it out steadily.

`build_detector(...).detect(images)`, or `given_detections(...)` where the user knows the faces, then `crop_faces(...)`.
"""

from .crop import crop_all_faces, crop_faces
from .cut import FaceCrops, cut_out
from .detections import Detections, FaceDetector
from .follow import Follower
from .given import given_detections, sidecar_path
from .registry import build_detector, detector_names
from .track import Track

__all__ = [
    "Detections",
    "FaceCrops",
    "FaceDetector",
    "Follower",
    "Track",
    "build_detector",
    "crop_all_faces",
    "crop_faces",
    "cut_out",
    "detector_names",
    "given_detections",
    "sidecar_path",
]
