"""One batch being read: its place in the ring of host buffers, and what the reading threads do for it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from d2st.cache.batch import Batch, Request
from d2st.cache.buffers import TORCH_DTYPES, Buffers, as_numpy
from d2st.cache.in_memory import Reader, stretches
from d2st.cache.upload import Upload

__all__ = ["Job", "Slot", "begin_job", "take"]


@dataclass
class Slot:
    """One place of the ring. `copied`: after it a device has all that the buffers hold."""

    buffers: Buffers
    copied: "torch.cuda.Event | None" = None


@dataclass
class Job:
    """A batch being read.

    Attributes:
        rows: (n,) the rows that are read into the slot; -1 is padding.
        host: (n, ...) of each array, there after `wait`.
        upload: under way to a device.
    """

    request: Request
    slot: Slot
    rows: np.ndarray
    host: dict[str, Tensor]
    reads: list[Future[None]]
    upload: Future[Upload[Batch]] | None = None

    def wait(self) -> None:
        """Until everything is read. Raises StoreError as `ArrayReader.read`."""
        for read in self.reads:
            read.result()


def begin_job(
    pool: ThreadPoolExecutor, threads: int, request: Request, rows: np.ndarray, readers: Mapping[str, Reader], slot: Slot
) -> Job:
    """Let `threads` threads read `rows` (n,) of all arrays into the buffers of `slot`."""
    if slot.copied is not None:  # a device may still be fetching what they hold
        slot.copied.synchronize()
        slot.copied = None
    host = take(slot.buffers, readers, len(rows))
    arrays = [(reader, as_numpy(host[name])) for name, reader in readers.items()]
    unit = max(1, request.rows.shape[1])  # clips stay whole, which saves reads, where there are enough
    unit = unit if len(rows) == request.rows.size >= threads * unit else 1
    cuts = (np.linspace(0, len(rows) // unit, threads + 1).astype(int) * unit).tolist()
    shares = [(begin, end) for begin, end in pairwise(cuts) if end > begin]
    return Job(request, slot, rows, host, [pool.submit(_fill, arrays, rows, begin, end) for begin, end in shares])


def take(buffers: Buffers, arrays: Mapping[str, Reader], frames: int) -> dict[str, Tensor]:
    """Buffers (frames, ...) for frames of each array."""
    return {
        name: buffers.take(name, frames, array.frame_shape, TORCH_DTYPES[array.dtype.name]) for name, array in arrays.items()
    }


def _fill(arrays: Sequence[tuple[Reader, np.ndarray]], rows: np.ndarray, begin: int, end: int) -> None:
    """Read those of `rows[begin:end]` that exist into the same places of each array, zero the padding."""
    for first, last in stretches(rows[begin:end] < 0):
        where = slice(begin + first, begin + last)
        for reader, out in arrays:
            if rows[where.start] < 0:
                out[where] = 0
            else:
                reader.read(rows[where], out[where])
