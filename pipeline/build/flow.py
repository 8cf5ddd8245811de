"""Threads joined by bounded pipes: what the stages of a build run on.

The one decision: a stage never waits anywhere but in a pipe of its flow. So an error in one of them, or Ctrl-C, wakes and ends all the
others, memory is bounded by what the pipes may hold, and the time that a stage does not spend waiting is the time that it works.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Clock", "Flow", "Pipe", "Stopped"]

JOIN_S = 0.2  # Ctrl-C is noticed between two of them, on every platform

T = TypeVar("T")


class Stopped(Exception):
    """The flow is ending early; raised inside of its stages alone."""


class Clock:
    """How long the threads of a stage have worked: `busy_s` by the wall, `cpu_s` of those threads' own processor time."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.cpu_s = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time spent in the `with` block, by whichever thread."""
        wall, cpu = perf_counter(), thread_time()
        try:
            yield
        finally:
            with self._lock:
                self.busy_s += perf_counter() - wall
                self.cpu_s += thread_time() - cpu


class Flow:
    """Owns the threads and pipes of one pipeline; a context manager that no thread outlives.

    Leaving the block waits for the stages to end. It raises the first error of any of them as it was raised there; an error of the block
    itself (Ctrl-C too) stops the stages first.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.stopping = False
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._running = 0

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.stop()
        try:
            self._join()
        except BaseException:  # Ctrl-C while waiting
            self.stop()
            self._join()
            raise
        if error is None and self._error is not None:
            raise self._error

    def _join(self) -> None:
        # not by Thread.join: interrupted by Ctrl-C it takes a thread that runs for one that has ended (CPython 3.11)
        with self.condition:
            while self._running:
                self.condition.wait(JOIN_S)
        for thread in self._threads:
            thread.join()

    def run(self, name: str, stage: Callable[[], None]) -> None:
        """Run `stage` in a thread of its own."""
        thread = threading.Thread(target=self._guard, args=(stage,), name=f"d2st-{name}")
        self._threads.append(thread)
        self._running += 1
        thread.start()

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Stopped:
            pass
        except BaseException as error:  # whatever it is, the caller of the build must see it
            self.stop(error)
        finally:
            with self.condition:
                self._running -= 1
                self.condition.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """End every stage at its next wait; the first error given is the one that is raised."""
        with self.condition:
            if self._error is None and not self.stopping:
                self._error = error
            self.stopping = True
            self.condition.notify_all()

    def check(self) -> None:
        """Raise Stopped if the flow is ending: to be called before anything is committed."""
        if self.stopping:
            raise Stopped

    def wait(self, ready: Callable[[], bool], *, timeout_s: float | None = None) -> None:
        """Wait until `ready()`, which is asked whenever a pipe moves, or `timeout_s` have passed. Raises Stopped."""
        with self.condition:
            self.condition.wait_for(lambda: self.stopping or ready(), timeout_s)
        self.check()

    def wake(self) -> None:
        """Have every `wait` ask again."""
        with self.condition:
            self.condition.notify_all()


class Pipe(Generic[T]):
    """A bounded first-in-first-out between two stages.

    Args:
        flow: ends it.
        capacity: total weight that may wait in it; a single heavier item still passes.
    """

    def __init__(self, flow: Flow, capacity: int) -> None:
        self._flow = flow
        self._capacity = capacity
        self._items: deque[tuple[T, int]] = deque()
        self._held = 0
        self._closed = False

    def put(self, item: T, *, weight: int = 1) -> None:
        """Append `item` as soon as there is room. Raises Stopped."""
        self._flow.wait(lambda: not self._items or self._held + weight <= self._capacity)
        with self._flow.condition:
            self._items.append((item, weight))
            self._held += weight
            self._flow.condition.notify_all()

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._flow.condition:
            self._closed = True
            self._flow.condition.notify_all()

    @property
    def ready(self) -> bool:
        """Whether the next item, or the end, comes without waiting."""
        return bool(self._items) or self._closed

    def __iter__(self) -> Iterator[T]:
        """Yield items as they come, until the pipe is closed and empty. Raises Stopped."""
        while True:
            self._flow.wait(lambda: self.ready)
            with self._flow.condition:
                if not self._items:
                    return
                item, weight = self._items.popleft()
                self._held -= weight
                self._flow.condition.notify_all()
            yield item
            del item  # what was handed on must not stay in memory while this waits for more
