"""Frames that stay in memory once they were read: in that of the GPU if they fit there, else in RAM.

The memory is filled by what the batches of the first epoch read, in whatever order; nothing is loaded ahead. Frames are kept as they are
stored (int8 stays int8), so batches are bit for bit those that the disk gives.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from d2st.cache.buffers import TORCH_DTYPES

__all__ = ["DeviceFrames", "KeepingReader", "Reader", "stretches"]

_ABSENT, _COMING = -1, -2


class Reader(Protocol):
    """What reads frames of one array; `ArrayReader` says how."""

    frame_shape: tuple[int, ...]
    dtype: np.dtype
    frame_bytes: int

    def read(self, rows: np.ndarray, out: np.ndarray) -> None: ...

    def close(self) -> None: ...


class KeepingReader:
    """Reads frames once, and from then on copies them out of RAM. Safe to share between threads.

    Args:
        reader: reads what is not there yet.
        rows: rows of the flat array.
        frames: how many frames are kept at most; more are read each time.
    """

    def __init__(self, reader: Reader, *, rows: int, frames: int) -> None:
        self._reader = reader
        self.frame_shape, self.dtype, self.frame_bytes = reader.frame_shape, reader.dtype, reader.frame_bytes
        self._frames = np.empty((frames, *reader.frame_shape), reader.dtype)  # takes real memory as it is filled
        self._places = _Places(rows=rows, frames=frames)

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """As `ArrayReader.read`."""
        places = self._places.find(rows)
        for begin, end in stretches(places < 0):
            if places[begin] < 0:
                self._reader.read(rows[begin:end], out[begin:end])
                self._keep(rows[begin:end], out[begin:end])
                continue
            for first, last in stretches(places[begin:end] - np.arange(end - begin)):  # side by side in memory
                place = places[begin + first]
                out[begin + first : begin + last] = self._frames[place : place + last - first]

    def close(self) -> None:
        """Free the memory and close the files; the reader may be used again, and begins anew."""
        self._reader.close()
        self._places.clear()
        self._frames = np.empty_like(self._frames)

    def _keep(self, rows: np.ndarray, frames: np.ndarray) -> None:
        new, place = self._places.reserve(rows)
        for begin, end in stretches(new - np.arange(len(new))):
            self._frames[place + begin : place + end] = frames[new[begin] : new[begin] + end - begin]
        self._places.publish(rows[new], place)


class DeviceFrames:
    """Frames of several arrays in the memory of one device, where batches are gathered from them.

    Args:
        arrays: frame shape and NumPy dtype of each array, by name.
        rows: rows of the flat arrays.
        frames: how many frames are kept at most; more are brought along each time.
    """

    def __init__(self, arrays: Mapping[str, Reader], *, rows: int, frames: int, device: torch.device) -> None:
        self._frames = {
            name: torch.empty((max(1, frames), *array.frame_shape), dtype=TORCH_DTYPES[array.dtype.name], device=device)
            for name, array in arrays.items()
        }
        self._places = _Places(rows=rows, frames=frames)

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` (n,) have to be read: (m,), each once, rising."""
        rows = np.unique(rows[rows >= 0])
        return rows[self._places.find(rows) < 0]

    def gather(self, rows: np.ndarray, brought: np.ndarray, host: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        """Fill `out` (n, ...) of each array with the frames `rows` (n,), with zeros where a row is negative; keep what is new.

        Args:
            brought: (m,) rising, rows of the frames in `host` (m, ...); `missing(rows)`, or more.
        """
        new, place = self._places.reserve(brought)
        parts = [
            (slice(place + b, place + e), slice(int(new[b]), int(new[b]) + e - b))
            for b, e in stretches(new - np.arange(len(new)))
        ]
        self._places.publish(brought[new], place)
        places = np.where(rows < 0, 0, self._places.find(np.maximum(rows, 0)))
        unkept = [(int(i), int(np.searchsorted(brought, rows[i]))) for i in np.flatnonzero(places < 0)]
        for name, frames in self._frames.items():
            for there, here in parts:
                frames[there].copy_(host[name][here], non_blocking=True)
            index = torch.from_numpy(np.maximum(places, 0)).to(frames.device)
            torch.index_select(frames, 0, index, out=out[name])
            for there, here in unkept:
                out[name][there].copy_(host[name][here], non_blocking=True)
            if (rows < 0).any():
                out[name].index_fill_(0, torch.from_numpy(np.flatnonzero(rows < 0)).to(frames.device), 0)


class _Places:
    """Which place in memory holds which row."""

    def __init__(self, *, rows: int, frames: int) -> None:
        self._place = np.full(rows + 1, _ABSENT, np.int64)  # the last one stands for rows that nobody knew of
        self._frames = frames
        self._used = 0
        self._lock = threading.Lock()

    def find(self, rows: np.ndarray) -> np.ndarray:
        """The place of each of `rows` (n,), negative where it is not there (yet)."""
        return self._place[np.minimum(rows, len(self._place) - 1)]

    def reserve(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """Which of `rows` (n,) get places that nobody else fills: rising positions (m,) in `rows`, and the first of the m places."""
        with self._lock:  # two threads may bring the same frame
            new = np.sort(np.unique(rows, return_index=True)[1])
            new = new[(self.find(rows[new]) == _ABSENT) & (rows[new] < len(self._place) - 1)]
            new, first = new[: self._frames - self._used], self._used
            self._used += len(new)
            self._place[rows[new]] = _COMING
        return new, first

    def publish(self, rows: np.ndarray, first: int) -> None:
        """The frames of reserved `rows` (m,) are in their places: from here on others use them."""
        self._place[rows] = first + np.arange(len(rows))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._place[:] = _ABSENT
            self._used = 0


def stretches(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """The bounds of each run of equal values: for 7 7 3 those are (0, 2) and (2, 3)."""
    if len(values):
        breaks = (np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()
        yield from zip([0, *breaks], [*breaks, len(values)], strict=True)
