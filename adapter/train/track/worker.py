"""A tracker in a thread of its own: training hands points over and goes on, the thread sends those of some seconds together.

A failure is kept as a message, and the tracker is dropped: a curve is worth less than the training it shows.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from d2st.adapter.train.track.protocol import Outcome, Point, Stage, Tracker

__all__ = ["Worker"]

SEND_EVERY_S = 5.0  # MLflow's store takes 5 ms of processor time a call, however many points it brings
JOIN_S = 60.0  # for what is still to be sent when a stage ends


@dataclass(frozen=True)
class _End:
    outcome: Outcome
    result: Mapping[str, Any]


class Worker:
    """One tracker of one stage.

    Args:
        name: of the tracker, for messages.
        open_tracker: called in the thread.
    """

    def __init__(self, name: str, open_tracker: Callable[[Stage], Tracker], stage: Stage) -> None:
        self._name = name
        self._points: queue.SimpleQueue[Point | _End] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        # a daemon: a tracker that hangs must not keep the process
        self._thread = threading.Thread(target=self._run, args=(open_tracker, stage), name=f"track-{name}", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Hand over a point; never waits, never raises."""
        if self._thread.is_alive():
            self._points.put(point)

    def finish(self, outcome: Outcome, result: Mapping[str, Any]) -> None:
        """Say that no point follows; `join` waits for what is under way."""
        self._points.put(_End(outcome, result))

    def join(self) -> None:
        """Wait until everything is sent, for a minute at most."""
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            self._messages.put(f"tracker {self._name} did not finish within {JOIN_S:.0f} s and was left behind")

    def messages(self) -> list[str]:
        """What there is to tell the user since the last call."""
        return [self._messages.get() for _ in range(self._messages.qsize())]

    def _run(self, open_tracker: Callable[[Stage], Tracker], stage: Stage) -> None:
        try:
            tracker = open_tracker(stage)
            self._messages.put(f"tracking stage {stage.number}: {tracker.view}")
            end = None
            while end is None:
                points, end = self._gather()
                if points:
                    tracker.log(points)
            tracker.close(end.outcome, end.result)
        except (Exception, SystemExit) as error:  # whatever a tracker does, training goes on
            reason = str(error).strip() or type(error).__name__
            self._messages.put(f"tracker {self._name} failed and was dropped, training is not affected: {reason}")

    def _gather(self) -> tuple[list[Point], _End | None]:
        """The points of the next seconds, and the end if it came."""
        points: list[Point] = []
        item, until = self._points.get(), time.monotonic() + SEND_EVERY_S
        while isinstance(item, Point):
            points.append(item)
            try:
                item = self._points.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return points, None
        return points, item
