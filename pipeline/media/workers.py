"""Decode in supervised child processes: a file that hangs or kills its decoder costs that file alone.

Each child is watched by one thread of this process through its own pair of pipes; a pool of the standard library breaks as a whole
when one worker dies. A child is a fresh interpreter that imports `child` and nothing else: neither a fork (decord and threads
do not survive one) nor multiprocessing's spawn (it would run the caller's script, and with it torch, again in every child).
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from d2st.cache.errors import MediaError, RunError
from d2st.pipeline.media.supervise import Child
from d2st.pipeline.media.tasks import Budget, Closing, Reading, WholeFile
from d2st.pipeline.media.types import Frames, Job

__all__ = ["WINDOWS_READER", "DecodePool", "default_workers"]

MAX_HELD_BYTES = 1 << 30  # frames that wait for their turn while an earlier file is still being decoded
WINDOWS_READER = "d2st.pipeline.media.windows:read_windows"


def default_workers() -> int:
    """One decoding process for each CPU core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class DecodePool:
    """`workers` child processes that call `read_media`, or `read_windows` for `stream`; use it as a context manager.

    Each file has `base_timeout_s` plus ten times the seconds that it claims to last (an hour at most in all). Children start with the
    first jobs, and anew after a crash or a timeout. `reader` names another function to call, "module:function".

    `busy_s` is how long the children together have been at work on files.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        base_timeout_s: float = 60.0,
        reader: str = "d2st.pipeline.media.read:read_media",
    ) -> None:
        self.workers = default_workers() if workers is None else max(1, workers)
        self._base_timeout_s = base_timeout_s
        self._reader = reader
        self._tasks: queue.SimpleQueue[WholeFile | Reading | None] = queue.SimpleQueue()
        self._budget = Budget(MAX_HELD_BYTES // 2)
        self._threads: list[threading.Thread] = []
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.busy_s = 0.0

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Frames | MediaError]]:
        """Yield (job, its frames or why there are none) in the order of `jobs`, which is read only a little ahead.

        At most twice as many jobs as workers are under way or waiting to be yielded, and no new one starts while more than
        1 GiB of frames waits. Raises RunError if the children can't be started at all.
        """
        source = iter(jobs)
        window: deque[tuple[Job, Future]] = deque()
        try:
            while True:
                while len(window) < 2 * self.workers and (not window or _held_bytes(window) < MAX_HELD_BYTES):
                    job = next(source, None)
                    if job is None:
                        break
                    window.append((job, self.submit(job)))
                if not window:
                    return
                yield window[0][0], window.popleft()[1].result()  # in one step: no name here keeps the frames alive
        finally:
            for _, future in window:
                future.cancel()

    def read(self, job: Job) -> Frames:
        """Decode one file. Raises its MediaError."""
        result = self.submit(job).result()
        if isinstance(result, MediaError):
            raise result
        return result

    def close(self) -> None:
        """End the children at once, whatever they are doing; jobs that have not been yielded are lost."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        self._budget.close()
        for child in children:
            child.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, job: Job) -> "Future[Frames | MediaError]":
        """Have one file decoded, after those submitted before it; for callers that bound by themselves how far they are ahead."""
        task = WholeFile(job)
        self._queue(task)
        return task.future

    def stream(self, job: Job, on_part: Callable[[], None] = lambda: None) -> Reading:
        """Have one file read in windows, after the files asked for before it, by a pool whose `reader` is `WINDOWS_READER`.

        Windows that nobody has taken yet make its child wait, so take those of the first file first. `on_part` is called, by another
        thread, whenever there is something to take.
        """
        reading = Reading(job, self._budget, on_part)
        self._queue(reading)
        return reading

    def _queue(self, task: WholeFile | Reading) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("this DecodePool is closed")
            self._tasks.put(task)
            if len(self._threads) < self.workers:
                thread = threading.Thread(target=self._serve, name="d2st-decode", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self) -> None:
        """One thread: hand tasks to one child after another until the pool closes."""
        child: Child | None = None
        try:
            while (task := self._tasks.get()) is not None:
                child = self._run(child, task)
                del task  # a thread that waits must not keep the last file's frames alive
        finally:
            self._end_child(child)

    def _run(self, child: Child | None, task: WholeFile | Reading) -> Child | None:
        """Settle one task with `child` or a fresh one; return the child to go on with."""
        if self._closed:
            task.cancel()
        if not task.start():
            return child
        try:
            child = self._living_child(child)
            crashed = self._work(child, task)
            if crashed and child.files_read > 1 and not self._closed:
                # what an earlier file broke may bring the child down only now: a file is to blame if a fresh child dies of it
                child = self._living_child(child)
                self._work(child, task)
            task.settle()
        except Closing:
            self._end_child(child)
            return None
        except BaseException as error:  # the caller must hear of it, not this thread
            task.settle(error)
        return child

    def _work(self, child: Child, task: WholeFile | Reading) -> bool:
        before_s = child.busy_s
        try:
            return task.run(child, self._base_timeout_s)
        finally:
            with self._lock:
                self.busy_s += child.busy_s - before_s

    def _living_child(self, child: Child | None) -> Child:
        if child is not None and child.alive:
            return child
        self._end_child(child)
        child = Child(self._reader)
        with self._lock:
            self._children.add(child)
            if self._closed:
                child.kill()
        try:
            child.wait_ready()
        except RunError:
            self._end_child(child)
            raise
        return child

    def _end_child(self, child: Child | None) -> None:
        if child is not None:
            with self._lock:
                self._children.discard(child)
            child.end()


def _held_bytes(window: Iterable[tuple[Job, Future]]) -> int:
    finished = (future.result() for _, future in window if future.done() and future.exception() is None)
    return sum(image.nbytes for result in finished if isinstance(result, Frames) for image in result.images)
