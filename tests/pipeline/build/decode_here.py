"""A decoding pool without processes, for builds whose media are known to be harmless: a child takes as long to start as a toy build takes.

Used by conftest.py and kill_server.py. Files that crash or hang their decoder are tested in tests/pipeline/media.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

from d2st.cache.errors import MediaError
from d2st.pipeline.media import Frames, Job
from d2st.pipeline.media.read import read_media

__all__ = ["DecodeHere"]


class DecodeHere:
    """In place of `DecodePool`."""

    def __init__(self, workers: int) -> None:
        self.busy_s = 0.0
        self._thread = ThreadPoolExecutor(workers)

    def __enter__(self) -> "DecodeHere":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, job: Job) -> "Future[Frames | MediaError]":
        return self._thread.submit(self._read, job)

    def _read(self, job: Job) -> Frames | MediaError:
        begin = perf_counter()
        try:
            return read_media(job.path, job.kind, frames=job.frames, sampling=job.sampling, files=job.files)
        except MediaError as error:
            return error
        finally:
            self.busy_s += perf_counter() - begin
