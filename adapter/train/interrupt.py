"""Ctrl-C and SIGTERM as a wish that is granted between two steps, when weights and optimiser agree with each other."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # SIGTERM: what job schedulers send before they kill


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside the block the first signal only makes the yielded function return True; a second one interrupts at once.

    Outside of the main thread, where Python takes no signals, the function is always False.
    """
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
