"""d2st: frozen-CLIP feature caches and lightweight spatio-temporal adapters for deepfake detection."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("d2st")
