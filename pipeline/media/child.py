"""The inside of a decoding child: take a job from stdin, read the file, write the frames to what was stdout.

Imports numpy, decord, PyAV and Pillow, and never torch or polars: starting must cost half a second. FFmpeg's own chatter, which goes
past Python to the file descriptors, ends in the null device. If the parent dies, stdin ends and so does this process, even while
a decoder hangs.
"""

import importlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from d2st.cache.errors import MediaError
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.types import Frames
from d2st.pipeline.media.wire import Closed, receive, send, send_frames

__all__ = ["serve"]


def serve(reader: str) -> None:
    """Answer jobs until the parent closes the pipe. `reader` is "module:function", called as `read_media` is."""
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)
    jobs, replies = _private_pipes()
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, inbox), daemon=True).start()
    send(replies, {"ready": True})
    while True:
        job = inbox.get()
        result = _read(read, job, replies)
        if isinstance(result, MediaError):
            send(replies, {"reason": result.reason, "message": result.message, "fix": result.fix})
        else:
            send_frames(replies, result)
        del result  # else the frames of this file stay in memory beside those of the next


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for the protocol alone, and send whatever libraries print to the null device."""
    sys.stdout.flush()
    sys.stderr.flush()
    jobs = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return jobs, replies


def _listen(jobs: BinaryIO, inbox: "queue.SimpleQueue[dict[str, Any]]") -> None:
    try:
        while True:
            inbox.put(receive(jobs))
    except Closed:
        os._exit(0)  # not sys.exit: the main thread may be inside a decoder that never returns


def _read(read: Callable[..., Frames], job: dict[str, Any], replies: BinaryIO) -> Frames | MediaError:
    try:
        return read(
            job["path"],
            job["kind"],
            frames=job["frames"],
            sampling=job["sampling"],
            files=job["files"],
            on_duration=lambda duration_s: send(replies, {"duration_s": duration_s}),
        )
    except MediaError as error:
        return error
    except Exception as error:  # a wrong `kind` or `sampling` in the job, or a fault of the reader
        return media_error("decode_failed", job["path"], f"{type(error).__name__}: {error}")
