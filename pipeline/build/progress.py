"""Counts for the person who waits: how many samples are cropped and how many frames encoded, of how many."""

import threading
from collections.abc import Callable, Mapping

__all__ = ["OnProgress", "Progress"]

OnProgress = Callable[[str, int, int], None]  # (phase, done, total)


class Progress:
    """Tells `on_progress`, one call at a time, from whichever thread did the work.

    Args:
        samples: how many samples are to be cropped, by shard.
        frames: how many frames are to be encoded, by shard: the planned number, until it is known how many there are.
    """

    def __init__(self, on_progress: OnProgress, *, samples: Mapping[int, int], frames: Mapping[int, int]) -> None:
        self._on_progress = on_progress
        self._expected = {"crops": dict(samples), "tokens": dict(frames)}
        self._totals = {phase: sum(expected.values()) for phase, expected in self._expected.items()}
        self._done = dict.fromkeys(self._totals, 0)
        self._lock = threading.RLock()
        for phase in self._totals:
            self._tell(phase)

    def cropped(self) -> None:
        """One more sample is cropped, or rejected."""
        with self._lock:
            self._done["crops"] += 1
            self._tell("crops")

    def encoded(self, frames: int) -> None:
        """So many more frames are encoded."""
        with self._lock:
            self._done["tokens"] += frames
            self._tell("tokens")

    def known(self, shard: int, *, frames: int) -> None:
        """A shard turned out to have so many frames."""
        with self._lock:
            self._totals["tokens"] += frames - self._expected["tokens"].pop(shard, frames)

    def elsewhere(self, shard: int) -> None:
        """Another builder has made a shard."""
        with self._lock:
            for phase, expected in self._expected.items():
                self._totals[phase] -= expected.pop(shard, 0)
                self._tell(phase)

    def _tell(self, phase: str) -> None:
        self._on_progress(phase, self._done[phase], self._totals[phase])
