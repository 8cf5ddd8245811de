"""The packages: whether each can be imported, and its version."""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import version

from d2st.cli.checks.check import REINSTALL, Check, attempt

__all__ = ["checks"]

# import name: distribution
PACKAGES = {
    "polars": "polars",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
    "awscrt": "awscrt",
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "av": "av",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
}


def checks() -> Iterator[Check]:
    for module, distribution in PACKAGES.items():
        yield attempt(distribution, partial(_version, module, distribution), fix=REINSTALL.format(distribution))


def _version(module: str, distribution: str) -> str:
    import_module(module)
    return version(distribution)
