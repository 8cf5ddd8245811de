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
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, BinaryIO

from d2st.cache.errors import MediaError
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.types import Frames, MediaEnd, MediaWindow
from d2st.pipeline.media.wire import Closed, receive, send, send_part, send_result

__all__ = ["serve"]


def serve(reader: str) -> None:
    """Answer jobs until the parent closes the pipe. `reader` is "module:function", called as `read_media` is, or, for jobs that ask for
    parts, as `read_windows` is."""
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)
    jobs, replies = _private_pipes()
    inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, inbox), daemon=True).start()
    send(replies, {"ready": True})
    while True:
        job = inbox.get()
        if job.pop("parts"):
            _answer_parts(read, job, replies)
            continue
        result = _read(read, job, replies)
        send_result(replies, result)
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


def _answer_parts(read: Callable[..., Iterator[MediaWindow | MediaEnd]], job: dict[str, Any], replies: BinaryIO) -> None:
    begin = perf_counter()
    try:
        for part in _call(read, job, replies, window_s=job["window_s"]):
            send_part(replies, part, busy_s=perf_counter() - begin)
            del part  # the next window is read while nobody holds this one
            begin = perf_counter()
    except Exception as error:  # a wrong `kind` or `sampling` in the job, or a fault of the reader
        failure = _fault(job, error)
        send_part(replies, MediaEnd(failure, None, 0, windowed=False), busy_s=perf_counter() - begin)


def _read(read: Callable[..., Frames], job: dict[str, Any], replies: BinaryIO) -> Frames | MediaError:
    try:
        return _call(read, job, replies)
    except Exception as error:
        return _fault(job, error)


def _call(read: Callable[..., Any], job: dict[str, Any], replies: BinaryIO, **more: Any) -> Any:
    return read(
        job["path"],
        job["kind"],
        frames=job["frames"],
        sampling=job["sampling"],
        files=job["files"],
        on_duration=lambda duration_s: send(replies, {"duration_s": duration_s}),
        **more,
    )


def _fault(job: dict[str, Any], error: Exception) -> MediaError:
    if isinstance(error, MediaError):
        return error
    return media_error("decode_failed", job["path"], f"{type(error).__name__}: {error}")
