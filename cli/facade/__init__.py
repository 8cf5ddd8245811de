"""d2st: frozen-CLIP feature caches and lightweight spatio-temporal adapters for deepfake detection."""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2st.detection import Detector
    from d2st.prediction import Doubt, Face, Prediction, Window

__all__ = ["Detector", "Doubt", "Face", "Prediction", "Window", "__version__"]

__version__ = version("d2st")


def __getattr__(name: str) -> object:  # lazy: the command line imports this package, and must stay instant
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from d2st import detection

    return getattr(detection, name)
