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

from d2st.cache.errors import MediaError
from d2st.pipeline.media.types import Frames, MediaEnd, MediaInfo, MediaWindow

__all__ = [
    "Closed",
    "receive",
    "receive_end",
    "receive_error",
    "receive_frames",
    "receive_window",
    "send",
    "send_part",
    "send_result",
]

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


def send_result(pipe: BinaryIO, result: Frames | MediaError, **more: Any) -> None:
    """Write frames, a message with all but the pixels and then the pixels of each image; or an error. `more` goes into the message."""
    if isinstance(result, MediaError):
        send(pipe, {**_error_fields(result), **more})
        return
    send(
        pipe,
        {
            "info": asdict(result.info),
            "indices": result.indices,
            "timestamps_s": result.timestamps_s,
            "shapes": [image.shape for image in result.images],
            **more,
        },
    )
    for image in result.images:
        _write(pipe, memoryview(np.ascontiguousarray(image)).cast("B"))


def send_part(pipe: BinaryIO, part: MediaWindow | MediaEnd, *, busy_s: float) -> None:
    """Write a window or the end of a file, and the seconds that reading it took."""
    if isinstance(part, MediaWindow):
        send_result(pipe, part.frames, window=[part.start_s, part.end_s], busy_s=busy_s)
        return
    error = {} if part.error is None else _error_fields(part.error)
    end = {"duration_s": part.duration_s, "frames": part.frames, "windowed": part.windowed}
    send(pipe, {"end": end, "busy_s": busy_s, **error})


def receive_frames(pipe: BinaryIO, message: Mapping[str, Any]) -> Frames:
    """Read the pixels that follow `message`. Raises Closed."""
    images = []
    for shape in message["shapes"]:
        image = np.empty(shape, np.uint8)  # (H, W, 3)
        _fill(pipe, memoryview(image).cast("B"))
        images.append(image)
    return Frames(tuple(images), tuple(message["indices"]), tuple(message["timestamps_s"]), MediaInfo(**message["info"]))


def receive_error(message: Mapping[str, Any]) -> MediaError:
    """The error that `message` holds."""
    return MediaError(message["reason"], message["message"], fix=message["fix"])


def receive_window(pipe: BinaryIO, message: Mapping[str, Any]) -> MediaWindow:
    """The window that `message` announces. Raises Closed."""
    return MediaWindow(receive_error(message) if "reason" in message else receive_frames(pipe, message), *message["window"])


def receive_end(message: Mapping[str, Any]) -> MediaEnd:
    """The end of a file that `message` holds."""
    return MediaEnd(error=receive_error(message) if "reason" in message else None, **message["end"])


def _error_fields(error: MediaError) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message, "fix": error.fix}


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
