"""Frames, rate and size of media, read from headers: an option of the scan, since opening every file is what makes a scan slow.

The one picture that is decoded is a video's first: its rotation is known only then, and width and height are given as shown.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
from PIL import Image

from d2st.pipeline.manifest.layouts import Found
from d2st.pipeline.manifest.walk import media_kind, natural_key

__all__ = ["Probe", "probe", "probe_all"]

EXIF_ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # orientations that swap width and height


class Probe(NamedTuple):
    frames: int | None
    fps: float | None
    width: int | None  # px, after rotation
    height: int | None


def probe_all(root: Path, found: Sequence[Found]) -> list[Probe | None]:
    """One Probe a sample, None where the file can't be read as what it claims to be."""

    def one(sample: Found) -> Probe | None:
        try:
            made = probe(root / sample.path, sample.kind)
        except Exception:  # damaged headers raise almost anything; the caller counts the None and the build names the reason
            return None
        return made._replace(frames=sample.frames) if sample.kind == "frames" else made

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(one, found))


def probe(path: Path, kind: str) -> Probe:
    """Read one sample's header. `frames` is None where the container does not say. Raises whatever the reader raises."""
    if kind == "video":
        return _video(path)
    if kind == "frames":
        names = (name for name in os.listdir(path) if not name.startswith(".") and media_kind(name) == "image")
        return _image(path / min(names, key=natural_key))
    return _image(path)


def _image(path: Path) -> Probe:
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(EXIF_ORIENTATION) in TURNED:
            width, height = height, width
    return Probe(1, None, width, height)


def _video(path: Path) -> Probe:
    with av.open(os.fspath(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        width, height = frame.width, frame.height
        if frame.rotation % 180:
            width, height = height, width
        rate = stream.average_rate
        return Probe(stream.frames or None, float(rate) if rate else None, width, height)
