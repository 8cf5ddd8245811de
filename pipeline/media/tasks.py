"""What a decode pool can be asked for: a whole file at once, or its windows as they come.

A file that is read in windows hands over one at a time and waits while nobody takes it; so a long file that is far ahead of its reader
costs two windows here and one in its child, and `Budget` bounds what all files together may have waiting.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from d2st.cache.errors import MediaError
from d2st.pipeline.media.supervise import Child
from d2st.pipeline.media.types import Frames, Job, MediaEnd, MediaWindow

__all__ = ["Budget", "Closing", "Reading", "WholeFile"]

WAITING = 2  # windows in one reading


class Closing(Exception):
    """The pool is closing, or nobody wants the rest of this file."""


class Budget:
    """How many bytes of frames may wait in all readings together. The first one that has not been taken to its end may always have one
    window waiting, so that nothing gets stuck."""

    def __init__(self, limit_bytes: int) -> None:
        self.readings: list[Reading] = []  # that are not at their end, in the order in which they were asked for
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.closed = False
        self.changed = threading.Condition()

    def close(self) -> None:
        """Wake and end whoever waits for room."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class WholeFile:
    """A job whose `future` gets frames, or why there are none."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.future: Future[Frames | MediaError] = Future()
        self._result: Frames | MediaError | None = None

    def start(self) -> bool:
        """Whether it is still wanted."""
        return self.future.set_running_or_notify_cancel()

    def run(self, child: Child, base_timeout_s: float) -> bool:
        """Have it read; True if all that came of it is a crash."""
        self._result = child.read(self.job, base_timeout_s=base_timeout_s)
        return _crashed(self._result)

    def settle(self, error: BaseException | None = None) -> None:
        """Tell the future what came of it."""
        result, self._result = self._result, None
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def cancel(self) -> None:
        """Nobody will read it."""
        self.future.cancel()


class Reading:
    """A job whose windows come one by one, and a `MediaEnd` behind them: `ready`, then `take`, until `take` gives the end.

    `on_part` is called, by a thread of the pool, whenever there is something new to take.
    """

    def __init__(self, job: Job, budget: Budget, on_part: Callable[[], None]) -> None:
        self.job = job
        self._budget = budget
        self._on_part = on_part
        self._parts: deque[MediaWindow | MediaEnd] = deque()
        self._end: MediaEnd | None = None
        self._error: BaseException | None = None
        self._given_up = False
        self._windows = 0
        with budget.changed:
            budget.readings.append(self)

    def ready(self) -> bool:
        """Whether `take` has something to give at once."""
        return bool(self._parts) or self._error is not None

    def take(self) -> MediaWindow | MediaEnd:
        """The next part, in order; ask `ready` first. Raises RunError if no child could be started."""
        with self._budget.changed:
            if not self._parts and self._error is not None:
                raise self._error
            part = self._parts.popleft()
            self._budget.held_bytes -= _bytes(part)
            if isinstance(part, MediaEnd):
                self._budget.readings.remove(self)
            self._budget.changed.notify_all()
        return part

    def cancel(self) -> None:
        """Nobody will take the rest."""
        with self._budget.changed:
            self._given_up = True
            self._budget.held_bytes -= sum(map(_bytes, self._parts))
            self._parts.clear()
            if self in self._budget.readings:
                self._budget.readings.remove(self)
            self._budget.changed.notify_all()

    def start(self) -> bool:
        """Whether it is still wanted."""
        return not self._given_up

    def run(self, child: Child, base_timeout_s: float) -> bool:
        """Have it read; True if all that came of it is a crash. Raises Closing."""
        self._end = child.read_parts(self.job, base_timeout_s=base_timeout_s, put=self._put)
        return self._windows == 0 and _crashed(self._end.error)

    def settle(self, error: BaseException | None = None) -> None:
        """Put the end behind the windows."""
        if error is None:
            self._parts.append(self._end)
        self._error = error
        self._on_part()

    def _put(self, window: MediaWindow) -> None:
        budget, more = self._budget, _bytes(window)
        self._windows += 1
        with budget.changed:
            budget.changed.wait_for(
                lambda: budget.closed or self._given_up or (len(self._parts) < WAITING and self._has_room(more))
            )
            if budget.closed or self._given_up:
                raise Closing
            self._parts.append(window)
            budget.held_bytes += more
        self._on_part()

    def _has_room(self, more_bytes: int) -> bool:
        budget = self._budget
        first = budget.readings[0] is self and not self._parts
        return first or budget.held_bytes + more_bytes <= budget.limit_bytes


def _crashed(result: Frames | MediaError | None) -> bool:
    return isinstance(result, MediaError) and result.reason == "decoder_crashed"


def _bytes(part: MediaWindow | MediaEnd) -> int:
    if isinstance(part, MediaEnd) or isinstance(part.frames, MediaError):
        return 0
    return sum(image.nbytes for image in part.frames.images)
