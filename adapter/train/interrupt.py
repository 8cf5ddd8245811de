"""Ctrl-C and SIGTERM as a wish that is granted between two steps, when weights and optimiser agree with each other."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # SIGTERM: what job schedulers send before they kill


@contextmanager
def deferred_interrupt(*, again_after_s: float = 0.0) -> Iterator[Callable[[], bool]]:
    """Inside the block the first signal only makes the yielded function return True; a second one interrupts at once.

    Outside of the main thread, where Python takes no signals, the function is always False.

    Args:
        again_after_s: a second signal that comes sooner than this after the first is the same wish: torchrun passes on the Ctrl-C that its
            processes got from the terminal already.
    """
    asked_at: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked_at and time.monotonic() - asked_at[0] >= again_after_s:
            raise KeyboardInterrupt
        asked_at.append(time.monotonic())

    def asked() -> bool:
        return bool(asked_at)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
