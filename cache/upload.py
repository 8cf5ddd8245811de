"""Batches on their way to a CUDA device, one ahead of the one in use, on a stream and in a thread of their own.

Two sets of device buffers take turns. The CPU waits for nothing; the two streams wait for each other:

    copies:  [ wait until batch k-2 is not used any more ] [ copy k, decode k ] record `ready`
    caller:  [ wait for `ready` of k ] [ whatever the caller does with k ] record `unused` when k+1 is asked for
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from d2st.cache.buffers import Buffers

__all__ = ["Upload", "Uploader"]

T = TypeVar("T")


@dataclass(frozen=True)
class Upload(Generic[T]):
    """What `work` returned, and the event after which the device has it."""

    made: T
    turn: int
    ready: torch.cuda.Event


class Uploader:
    """Fills the device buffers, in order.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = (Buffers(device=device), Buffers(device=device))
        self._unused: list[torch.cuda.Event | None] = [None, None]
        self._turns = 0
        self._in_use: int | None = None

    def submit(self, thread: ThreadPoolExecutor, work: Callable[[Buffers], T]) -> Future[Upload[T]]:
        """Let `thread`, which has one worker, call `work` with the device buffers of the next turn, on the copy stream.

        At most two may be under way or in use: the one that was delivered, and one more.
        """
        turn, self._turns = self._turns % 2, self._turns + 1
        return thread.submit(self._run, turn, work)

    def deliver(self, upload: Upload[T], tensors: Iterable[Tensor]) -> T:
        """Let the caller's stream wait for an upload, whose `tensors` then belong to it until `release`."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(upload.ready)
        for tensor in tensors:
            tensor.record_stream(current)  # a freed buffer is not given to others before this stream is done with it
        self._in_use = upload.turn
        return upload.made

    def release(self) -> None:
        """The caller asks for the next batch: whatever it has launched so far is the last that uses the delivered one."""
        if self._in_use is not None:
            self._unused[self._in_use] = torch.cuda.current_stream(self._device).record_event()
            self._in_use = None

    def finish(self) -> None:
        """Wait until the copy stream has nothing left to do: host buffers may go, and nobody uses the delivered batch any more."""
        self.release()
        self._stream.synchronize()

    def _run(self, turn: int, work: Callable[[Buffers], T]) -> Upload[T]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            unused = self._unused[turn]
            if unused is not None:
                self._stream.wait_event(unused)
            made = work(self._buffers[turn])
            return Upload(made, turn, self._stream.record_event())
