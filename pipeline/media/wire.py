"""The bytes between the decode pool and its children: JSON messages, and frames as raw pixels behind one.

No pickle, and no copy but the pipe's own: pixels are written from the array that the decoder filled and read into the array that the
caller gets.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from d2st.pipeline.media.types import Frames, MediaInfo

__all__ = ["Closed", "receive", "receive_frames", "send", "send_frames"]

LENGTH_BYTES = 4


class Closed(Exception):
    """The other side is gone."""


def send(pipe: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write one JSON message behind its length. `pipe` is unbuffered. Raises OSError if the other side is gone."""
    body = json.dumps(message, default=os.fspath).encode(
        "ascii"
    )  # escapes: file names that are not valid Unicode come through too
    _write(pipe, len(body).to_bytes(LENGTH_BYTES, "big") + body)


def receive(pipe: BinaryIO) -> dict[str, Any]:
    """Read one message. Raises Closed if the other side is gone, in the middle of it too."""
    length = bytearray(LENGTH_BYTES)
    _fill(pipe, memoryview(length))
    body = bytearray(int.from_bytes(length, "big"))
    _fill(pipe, memoryview(body))
    return json.loads(body)


def send_frames(pipe: BinaryIO, frames: Frames) -> None:
    """Write frames: a message with all but the pixels, then the pixels of each image."""
    send(
        pipe,
        {
            "info": asdict(frames.info),
            "indices": frames.indices,
            "timestamps_s": frames.timestamps_s,
            "shapes": [image.shape for image in frames.images],
        },
    )
    for image in frames.images:
        _write(pipe, memoryview(np.ascontiguousarray(image)).cast("B"))


def receive_frames(pipe: BinaryIO, message: Mapping[str, Any]) -> Frames:
    """Read the pixels that follow `message`. Raises Closed."""
    images = []
    for shape in message["shapes"]:
        image = np.empty(shape, np.uint8)  # (H, W, 3)
        _fill(pipe, memoryview(image).cast("B"))
        images.append(image)
    return Frames(tuple(images), tuple(message["indices"]), tuple(message["timestamps_s"]), MediaInfo(**message["info"]))


def _write(pipe: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


def _fill(pipe: BinaryIO, view: memoryview) -> None:
    while view:
        count = pipe.readinto(view)
        if not count:
            raise Closed
        view = view[count:]
