"""The direct reader: rows of an array, straight from the shard files into memory that the caller owns.

Frames that lie side by side on the disk come with one `preadv`, whose buffers are the destination frames with the four checksum bytes
between them, in pieces small enough that the checksum finds the bytes still in the processor's cache: no copy, no decoding.

Each frame is verified when a reader reads it for the first time from a file, and not again as long as that file stays the same: training
reads every frame in every epoch, and checking all of them each time would cost a fifth of the speed of plain reads to tell what the first
epoch has told (`tests/bench/cache.py`).

Small frames (CLS tokens, scales) are read run by run into a scratch buffer and verified by one checksum a run: after data | crc32c(data)
the CRC register always holds the same residue, so the checksum of a run of sound frames depends on their number and size alone. One to
three flipped bits always change it (Castagnoli et al., IEEE Trans. Commun. 41, 1993), anything else does but for once in 2^32.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from d2st.cache.arrays import SHARD_FRAMES, read_array_meta
from d2st.cache.checksum import crc32c
from d2st.cache.errors import StoreError
from d2st.cache.open_shards import OpenShard, OpenShards
from d2st.cache.shard import CRC_BYTES

__all__ = ["ArrayReader"]

PIECE_BYTES = 640 * 1024  # read at once, then checked: fits the L2 cache of a core
SMALL_FRAME_BYTES = 16 * 1024
RUN_FRAMES = 384  # a run takes two buffers a frame, and the kernel accepts 1,024 at once
_FIX = "Run `d2st cache verify` to see what else is hit, and `d2st cache repair` to build it anew"


class ArrayReader:
    """Reads frames of one array. Safe to share between threads; a context manager, which closes its files.

    Args:
        path: the array's folder, with its zarr.json.
        views: folders of further arrays of such frames. Row r of the v-th of them, counted from 1, is row r + v * stride.
        stride: a multiple of `SHARD_FRAMES`, no less than the rows of any of the arrays.

    Attributes:
        frame_shape: (H, W, C), (H, W) or (C,).
        dtype: numpy dtype of a stored frame.
        frame_bytes: bytes of a frame, without its checksum.
    """

    def __init__(self, path: Path, *, views: Sequence[Path] = (), stride: int = SHARD_FRAMES) -> None:
        self.frame_shape, name = read_array_meta(path)
        for other in views:
            if (found := read_array_meta(other)) != (self.frame_shape, name):
                raise StoreError(f"{other} holds {found[1]} frames of shape {found[0]}, {path} {name} of {self.frame_shape}")
        self.dtype = np.dtype(name)
        self.frame_bytes = int(np.prod(self.frame_shape)) * self.dtype.itemsize
        self._shards = OpenShards(
            (path, *views),
            shards_each=stride // SHARD_FRAMES,
            frame_dims=len(self.frame_shape),
            frame_bytes=self.frame_bytes,
        )
        self._sound: dict[int, int] = {}  # frames in a run -> its checksum if all of them are sound
        self._small = self.frame_bytes <= SMALL_FRAME_BYTES
        self._most = SHARD_FRAMES if self._small else max(1, PIECE_BYTES // (self.frame_bytes + CRC_BYTES))  # frames at once

    def read(self, rows: Sequence[int] | np.ndarray, out: np.ndarray) -> None:
        """Fill `out` (n, *frame_shape), C-contiguous, with the frames `rows` (n,) of the flat array, in that order.

        Raises:
            StoreError: a row was never written, its bytes fail their checksum, or the disk fails.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if out.shape != (len(rows), *self.frame_shape) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be contiguous {self.dtype} of shape {(len(rows), *self.frame_shape)}, not {out.dtype} {out.shape}"
            )
        flat = out.reshape(-1).view(np.uint8).reshape(len(rows), self.frame_bytes)
        for begin, end, shard, slot in _runs(rows):
            self._read_run(shard, slot, flat[begin:end])

    def close(self) -> None:
        """Close every file as soon as nobody reads it; the reader may be used again."""
        self._shards.close()

    def __enter__(self) -> "ArrayReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_shards"):
            self.close()

    def _read_run(self, shard: int, slot: int, out: np.ndarray) -> None:
        """Fill `out` (n, frame_bytes) with the frames of the n slots from `slot` on."""
        for last_try in (False, True):
            opened = self._shards.acquire(shard)
            try:
                return self._read_slots(opened, shard, slot, out)
            except OSError as error:  # StoreErrors among them
                if last_try or not self._shards.replaced(shard, opened):
                    if isinstance(error, StoreError):
                        raise
                    raise StoreError(f"can't read {self._shards.file(shard)}: {error.strerror or error}", fix=_FIX) from error
            finally:
                self._shards.release(opened)
        return None

    def _read_slots(self, opened: OpenShard, shard: int, slot: int, out: np.ndarray) -> None:
        fill = self._fill_small if self._small else self._fill_large
        array, number = self._shards.place(shard)
        done = 0
        while done < len(out):
            row = number * SHARD_FRAMES + slot + done
            offset, count = opened.offsets[slot + done], min(opened.together[slot + done], RUN_FRAMES, len(out) - done)
            verify = opened.verified.find(0, slot + done, slot + done + count) >= 0
            count = min(count, self._most) if verify else count
            if offset < 0:
                raise StoreError(
                    f"{array}: row {row} was never written, or has left the store", fix="Run `d2st cache build` again"
                )
            damaged = fill(opened.descriptor, offset, out[done : done + count], verify=verify)
            if damaged is not None:
                raise StoreError(f"row {row + damaged} in {self._shards.file(shard)} fails its checksum", fix=_FIX)
            if verify:
                opened.verified[slot + done : slot + done + count] = b"\1" * count
            done += count

    def _fill_large(self, descriptor: int, offset: int, out: np.ndarray, *, verify: bool) -> int | None:
        """Fill `out` (n, frame_bytes) from `offset` on; the number of the first damaged frame, or None."""
        tails = bytearray(CRC_BYTES * len(out))
        cut = memoryview(tails)
        frames = [memoryview(frame) for frame in out]
        buffers = [part for i, frame in enumerate(frames) for part in (frame, cut[i * CRC_BYTES : (i + 1) * CRC_BYTES])]
        _read_fully(descriptor, buffers, offset, len(out) * (self.frame_bytes + CRC_BYTES))
        for i, expected in enumerate(np.frombuffer(tails, "<u4").tolist() if verify else ()):
            if crc32c(frames[i]) != expected:
                return i
        return None

    def _fill_small(self, descriptor: int, offset: int, out: np.ndarray, *, verify: bool) -> int | None:
        """As `_fill_large`, by way of a scratch buffer."""
        run = np.empty((len(out), self.frame_bytes + CRC_BYTES), np.uint8)
        _read_fully(descriptor, [memoryview(run).cast("B")], offset, run.nbytes)
        out[:] = run[:, : self.frame_bytes]
        if not verify or crc32c(run) == self._sound_run(len(out)):
            return None
        stored = run[:, self.frame_bytes :].copy().view("<u4")[:, 0].tolist()
        return next(i for i, expected in enumerate(stored) if crc32c(run[i, : self.frame_bytes]) != expected)

    def _sound_run(self, frames: int) -> int:
        if frames not in self._sound:
            blank = bytes(self.frame_bytes)
            self._sound[frames] = crc32c((blank + crc32c(blank).to_bytes(CRC_BYTES, "little")) * frames)
        return self._sound[frames]


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Split rows (n,) into runs of consecutive numbers in one shard: (begin, end, shard, first slot)."""
    if len(rows) == 0:
        return
    if rows.min() < 0:
        raise ValueError(f"rows must not be negative: {rows[rows < 0][:3]}")
    shards, slots = np.divmod(rows, SHARD_FRAMES)
    begins = np.flatnonzero(np.concatenate(([True], (rows[1:] - rows[:-1] != 1) | (slots[1:] == 0))))
    ends = [*begins[1:].tolist(), len(rows)]
    yield from zip(begins.tolist(), ends, shards[begins].tolist(), slots[begins].tolist(), strict=True)


def _read_fully(descriptor: int, buffers: list[memoryview], offset: int, wanted: int) -> None:
    """`preadv` until `wanted` bytes are there. Raises OSError where the file ends before."""
    done = os.preadv(descriptor, buffers, offset)
    while done < wanted:  # rare: reads are cut short by signals and by the end of the file
        count, rest = done, []
        for buffer in buffers:
            if count < len(buffer):
                rest.append(buffer[count:])
            count = max(0, count - len(buffer))
        more = os.preadv(descriptor, rest, offset + done)
        if more == 0:
            raise OSError(errno.EIO, f"it ends after {offset + done} bytes, in the middle of a frame")
        done += more
