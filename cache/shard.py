"""One shard file of an ordinary Zarr v3 array: written as a stream, frame by frame; read by its index.

The format is Zarr's `sharding_indexed` codec with one frame a chunk (Zarr v3 specification, sharding codec 1.0):

    frame 0 | crc32c | frame 1 | crc32c | ... | index: slots x (offset u64, nbytes u64) | crc32c of the index

A slot that holds nothing has offset = nbytes = 2^64 - 1. Any Zarr library opens the result. We write it ourselves because zarr-python needs
the whole shard in memory and does not fsync.
"""

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2st.cache.checksum import crc32c, crc64
from d2st.cache.errors import StoreError
from d2st.cache.files import explained, open_new

__all__ = ["CRC_BYTES", "EMPTY", "FileDigest", "ShardWriter", "read_index"]

CRC_BYTES = 4
EMPTY = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class FileDigest:
    """Size and CRC-64 of a whole file, as the ledger keeps them (stores of format 1: CRC-32C)."""

    size_bytes: int
    checksum: int


class ShardWriter:
    """Writes one shard file, frame by frame. The file is whole only after `close`; `Level.stage` keeps it out of sight until then.

    Args:
        path: the file to write.
        slots: frames that a shard of this array can hold.

    Raises:
        StoreError: the disk is full or not writable.
    """

    def __init__(self, path: Path, *, slots: int) -> None:
        self.path = path
        self._index = np.full((slots, 2), EMPTY, dtype="<u8")
        self._used = 0
        self._offset = 0
        self._checksum = 0
        with explained(path):
            self._file = open_new(path)  # closed by `close` or `abandon`

    def append(self, frames: np.ndarray) -> None:
        """Add `frames` (n, ...), little-endian, to the next n slots. Raises StoreError when the shard or the disk is full."""
        if self._used + len(frames) > len(self._index):
            raise StoreError(f"shard {self.path} holds {len(self._index)} frames, {self._used + len(frames)} were given")
        for frame in np.ascontiguousarray(frames):
            self._index[self._used] = (self._offset, frame.nbytes + CRC_BYTES)
            self._write(frame)
            self._write(struct.pack("<I", crc32c(frame)))
            self._used += 1

    def skip(self, slots: int) -> None:
        """Leave the next `slots` slots empty: reading them is an error, and they take no room."""
        if self._used + slots > len(self._index):
            raise StoreError(f"shard {self.path} holds {len(self._index)} frames, {self._used + slots} were given")
        self._used += slots

    def close(self) -> FileDigest:
        """Write the index and bring everything onto the disk."""
        index = self._index.tobytes()
        self._write(index)
        self._write(struct.pack("<I", crc32c(index)))
        with explained(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return FileDigest(size_bytes=self._offset, checksum=self._checksum)

    def abandon(self) -> None:
        """Close the file as it is, without an index."""
        with suppress(OSError):  # the disk is full, and what is buffered is not wanted any more
            self._file.close()

    def _write(self, data: bytes | np.ndarray) -> None:
        with explained(self.path):
            self._file.write(data)
        self._checksum = crc64(data, self._checksum)
        self._offset += data.nbytes if isinstance(data, np.ndarray) else len(data)


def read_index(descriptor: int, *, slots: int, where: str) -> np.ndarray:
    """The index of an open shard file: (slots, 2) uint64 of offset and nbytes, `EMPTY` where a slot holds nothing.

    Raises:
        StoreError: the file is too short, the index fails its checksum, or a chunk lies outside of the file.
    """
    length = slots * 16 + CRC_BYTES
    size = os.fstat(descriptor).st_size
    fix = "Run `d2st cache repair` on the store"
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
