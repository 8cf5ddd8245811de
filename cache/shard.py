"""One shard file of an ordinary Zarr v3 array: written as a stream, committed by one rename; read by its index.

The format is Zarr's `sharding_indexed` codec with one frame a chunk (Zarr v3 specification, sharding codec 1.0):

    frame 0 | crc32c | frame 1 | crc32c | ... | index: slots x (offset u64, nbytes u64) | crc32c of the index

A slot that holds nothing has offset = nbytes = 2^64 - 1. Any Zarr library opens the result. We write it ourselves because zarr-python needs
the whole shard in memory and does not fsync.
"""

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np

from d2st.cache.errors import StoreError
from d2st.cache.files import atomic_file

__all__ = ["CRC_BYTES", "EMPTY", "FileDigest", "ShardWriter", "crc32c", "read_index"]

CRC_BYTES = 4
EMPTY = np.uint64(2**64 - 1)


def crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of bytes or of a contiguous array, without a copy."""
    if isinstance(data, np.ndarray):
        data = data.view()
        data.flags.writeable = False  # the C extension takes read-only buffers alone
    return google_crc32c.value(data)


@dataclass(frozen=True)
class FileDigest:
    """Size and CRC-32C of a whole file, as the ledger keeps them."""

    size_bytes: int
    crc32c: int


class ShardWriter:
    """Writes one shard file, frame by frame; nothing appears at `path` before the `with` block ends well.

    Args:
        path: the shard's file in the array (`.../c/<k>/0/0/0`).
        slots: frames that a shard of this array can hold.
    """

    def __init__(self, path: Path, *, slots: int) -> None:
        self.path = path
        self.digest: FileDigest | None = None
        self._index = np.full((slots, 2), EMPTY, dtype="<u8")
        self._used = 0
        self._offset = 0
        self._crc = 0
        self._stack = ExitStack()

    def __enter__(self) -> "ShardWriter":
        self._file = self._stack.enter_context(atomic_file(self.path))
        return self

    def append(self, frames: np.ndarray) -> None:
        """Add `frames` (n, ...), C-contiguous, little-endian, to the next n slots. Raises StoreError when the shard is full."""
        if self._used + len(frames) > len(self._index):
            raise StoreError(f"shard {self.path} holds {len(self._index)} frames, {self._used + len(frames)} were given")
        for frame in np.ascontiguousarray(frames):
            data = frame.tobytes()
            self._index[self._used] = (self._offset, len(data) + CRC_BYTES)
            self._write(data)
            self._write(struct.pack("<I", crc32c(data)))
            self._used += 1

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self._offset += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if kind is None:
            try:
                index = self._index.tobytes()
                self._write(index)
                self._write(struct.pack("<I", crc32c(index)))
                self.digest = FileDigest(size_bytes=self._offset, crc32c=self._crc)
            except BaseException as failure:
                if not self._stack.__exit__(type(failure), failure, failure.__traceback__):
                    raise
        return self._stack.__exit__(kind, error, traceback)


def read_index(descriptor: int, *, slots: int, where: str) -> np.ndarray:
    """The index of an open shard file: (slots, 2) uint64 of offset and nbytes, `EMPTY` where a slot holds nothing.

    Raises:
        StoreError: the file is too short, the index fails its checksum, or a chunk lies outside of the file.
    """
    length = slots * 16 + CRC_BYTES
    size = os.fstat(descriptor).st_size
    fix = "Delete the store's ledger part of this shard and run `d2st cache build` again to rebuild it"
    if size < length:
        raise StoreError(f"{where} is truncated: {size} bytes, its index alone takes {length}", fix=fix)
    data = os.pread(descriptor, length, size - length)
    if crc32c(data[:-CRC_BYTES]) != struct.unpack("<I", data[-CRC_BYTES:])[0]:
        raise StoreError(f"{where} is damaged: its index fails the checksum", fix=fix)
    index = np.frombuffer(data, dtype="<u8", count=slots * 2).reshape(slots, 2)
    present = index[:, 0] != EMPTY
    if present.any() and int((index[present, 0] + index[present, 1]).max()) > size - length:
        raise StoreError(f"{where} is damaged: its index points outside of the file", fix=fix)
    return index
