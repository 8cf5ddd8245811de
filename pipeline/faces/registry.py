"""The face detectors by name. A new one is one file and one line here."""

from collections.abc import Callable
from pathlib import Path

from d2st.cache.errors import UnknownNameError

from .detections import FaceDetector

__all__ = ["build_detector", "detector_names"]


def _mtcnn(weights: Path | None, device: str) -> FaceDetector:
    from .mtcnn import load_mtcnn

    return load_mtcnn(weights, device=device)


def _yunet(weights: Path | None, device: str) -> FaceDetector:
    from .yunet import load_yunet

    return load_yunet(weights)


def _none(weights: Path | None, device: str) -> FaceDetector:
    from .none import NoDetector

    return NoDetector()


DETECTORS: dict[str, Callable[[Path | None, str], FaceDetector]] = {"mtcnn": _mtcnn, "none": _none, "yunet": _yunet}


def detector_names() -> list[str]:
    """The names that `build_detector` knows, sorted."""
    return sorted(DETECTORS)


def build_detector(name: str, *, weights: Path | None = None, device: str = "cpu") -> FaceDetector:
    """Build a detector. Imports what it needs only then.

    weights: the model file of "yunet"; a folder with MTCNN's files in place of the installed wheel's; unused by "none".
    device: "cpu" or "cuda"; only "mtcnn" runs on the latter.
    Raises UnknownNameError for a name that is not registered, WeightsError for weights that can't be used.
    """
    if name not in DETECTORS:
        raise UnknownNameError("face detector", name, detector_names())
    return DETECTORS[name](weights, device)
