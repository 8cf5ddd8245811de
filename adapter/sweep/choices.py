"""What was measured of each kind of network: whether its trials are faster as a stack or one by one, and how many fit.

The decision that shaped it: nothing is taken for granted. A kind takes its first passes in turns, one by one and stacked, all of them real
ones whose gradients are used, and keeps to what was faster on this device; doubt goes against the stack. Memory is measured in the very
first.
"""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from d2st.adapter.sweep.memory import Peak, free_bytes

__all__ = ["Choices"]

PROBES = ("alone", "stacked") * 2  # the first of each only warms up
WORTH = 0.95  # of the time one by one: what stacking has to stay below, lest noise decide
MEMORY_SHARE = 0.6  # of what is free, for what one stack takes at its peak


class Choices:
    """The measurements of one population, on one device. A kind is any key; None stands for a trial that nobody is equal to."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rates: dict[Hashable, dict[str, list[float]]] = {}  # seconds a frame
        self._most: dict[Hashable, int] = {}
        self._refused: set[Hashable] = {None}

    def mode(self, kind: Hashable) -> str:
        """How the next pass of a kind is to be computed: "alone" or "stacked"."""
        if kind in self._refused:
            return "alone"
        if not self.settled(kind):
            return PROBES[self._done(kind)]
        return "stacked" if self._ratio(kind) < WORTH else "alone"

    def settled(self, kind: Hashable) -> bool:
        """Whether the next pass is no longer a trial of speed."""
        if kind in self._refused or self._done(kind) == len(PROBES):
            return True
        # on a CPU warming up is little of a pass, and a stack that is slower there stays so
        return self._device.type == "cpu" and self._done(kind) == 2 and self._ratio(kind) > 1

    def most(self, kind: Hashable) -> int | None:
        """How many may be stacked; None when it was not measured yet."""
        return self._most.get(kind)

    def limit(self, kind: Hashable, most: int) -> None:
        """Stack so many from now on: more did not fit."""
        self._most[kind] = most

    def refuse(self, kind: Hashable) -> None:
        """Never stack networks of this kind."""
        self._refused.add(kind)

    @contextmanager
    def timed(self, kind: Hashable, mode: str, *, frames: int) -> Iterator[None]:
        """Measure a pass over so many frames in all, if it is still a question."""
        if self.settled(kind):
            yield
            return
        began = self._clock()
        yield
        self._of(kind)[mode].append((self._clock() - began) / frames)

    @contextmanager
    def measured(self, kind: Hashable) -> Iterator[None]:
        """Measure the memory of one network's pass, if it is not known."""
        if kind is None or kind in self._most:
            yield
            return
        peak = Peak(self._device)
        yield
        taken = peak.bytes()
        if taken:
            self._most[kind] = max(1, int(MEMORY_SHARE * free_bytes(self._device) / taken))

    def verdict(self, kind: Hashable) -> str:
        """What was found, in words; nothing of a kind that can't be stacked."""
        if kind in self._refused:
            return ""
        ratio = f"{self._ratio(kind):.2f} of the time"
        return f"stacked, in {ratio} one by one" if self.mode(kind) == "stacked" else f"one by one: stacking takes {ratio}"

    def _done(self, kind: Hashable) -> int:
        return sum(map(len, self._of(kind).values()))

    def _ratio(self, kind: Hashable) -> float:
        """Time of a stacked pass over that of the same one by one, warm ones where there are any."""
        alone, stacked = (min(values[1:] or values) for values in (self._of(kind)[mode] for mode in ("alone", "stacked")))
        return stacked / alone

    def _of(self, kind: Hashable) -> dict[str, list[float]]:
        return self._rates.setdefault(kind, {"alone": [], "stacked": []})

    def _clock(self) -> float:
        """Seconds; on the CPU those of this thread alone, which other programs on the machine hardly change."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.thread_time()
