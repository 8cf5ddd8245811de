"""The shard files that a reader has open: descriptor and parsed index of each, shared between threads. The least
recently used is closed first.

Several arrays of the same frames are one: each has a range of shard numbers to itself, so that a batch that mixes them is read like any
other, and the files that may be open are as many as for one.

A file that is replaced while it is open (`d2st cache repair`, `gc`) stays what it was for those who read it; whoever meets damage asks
`replaced` and opens it again.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import numpy as np

from d2st.cache.arrays import SHARD_FRAMES, shard_path
from d2st.cache.errors import StoreError
from d2st.cache.shard import CRC_BYTES, EMPTY, read_index

__all__ = ["OpenShard", "OpenShards"]

OPEN_FILES = 128  # of one reader at most; all of a process take half of what it may have open (`ulimit -n`, often 1,024)
_ALL: "WeakSet[OpenShards]" = WeakSet()


@dataclass(eq=False)
class OpenShard:
    """One open file.

    Attributes:
        offsets: of each slot's frame in the file; -1 where a slot is empty.
        together: how many frames lie side by side on the disk from each slot on, itself included.
        verified: 1 for each slot whose frame this process has found to be sound, in this very file.
    """

    descriptor: int
    offsets: list[int]
    together: list[int]
    verified: bytearray
    users: int = 0
    gone: bool = False  # its last user closes it


class OpenShards:
    """The open shards of one array, or of several.

    Args:
        arrays: their folders.
        shards_each: shard k of the v-th array has the number k + v * shards_each; not asked for where there is one alone.
        frame_dims: axes of one frame.
        frame_bytes: bytes of one frame, without its checksum.
    """

    def __init__(self, arrays: Sequence[Path], *, shards_each: int, frame_dims: int, frame_bytes: int) -> None:
        self._arrays, self._shards_each = arrays, shards_each
        self._frame_dims, self._frame_bytes = frame_dims, frame_bytes
        self._open: OrderedDict[int, OpenShard] = OrderedDict()  # least recently used first
        self._verified: dict[
            int, tuple[tuple[int, ...], bytearray]
        ] = {}  # outlives the open file, as long as it is the same one
        self._lock = threading.Lock()
        _ALL.add(self)

    def __len__(self) -> int:
        return len(self._open)

    def place(self, shard: int) -> tuple[Path, int]:
        """The folder of the array that a shard belongs to, and its number there."""
        if len(self._arrays) == 1:
            return self._arrays[0], shard
        array = min(shard // self._shards_each, len(self._arrays) - 1)
        return self._arrays[array], shard - array * self._shards_each

    def file(self, shard: int) -> Path:
        """Where a shard lies."""
        array, number = self.place(shard)
        return shard_path(array, number, frame_dims=self._frame_dims)

    def acquire(self, shard: int) -> OpenShard:
        """The shard, to be given back by `release`. Raises StoreError when its file is missing, truncated, or its index is damaged."""
        with self._lock:
            opened = self._open.get(shard)
            if opened is None:
                self._make_room()
                opened = self._open[shard] = self._load(shard)  # published only with its index
            self._open.move_to_end(shard)
            opened.users += 1
        return opened

    def release(self, opened: OpenShard) -> None:
        """Give back what `acquire` gave."""
        with self._lock:
            opened.users -= 1
            if opened.gone and opened.users == 0:
                os.close(opened.descriptor)

    def replaced(self, shard: int, opened: OpenShard) -> bool:
        """Whether another file has taken the place of the open one, which `acquire` then no longer gives."""
        try:
            same = os.path.samestat(os.stat(self.file(shard)), os.fstat(opened.descriptor))
        except OSError:  # gone, or a network disk forgot the open one: opening it again says what is wrong
            same = False
        with self._lock:
            if not same and self._open.get(shard) is opened:
                opened.gone = True
                del self._open[shard]
        return not same

    def close(self) -> None:
        """Close every file, those in use as soon as they are given back."""
        with self._lock:
            for opened in self._open.values():
                opened.gone = True
                if opened.users == 0:
                    os.close(opened.descriptor)
            self._open.clear()

    def _make_room(self) -> None:
        excess = len(self._open) - _files_each() + 1  # one more is about to be opened
        idle = [shard for shard, opened in self._open.items() if opened.users == 0]
        for shard in idle[: max(0, excess)]:
            os.close(self._open.pop(shard).descriptor)

    def _load(self, shard: int) -> OpenShard:
        path = self.file(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                why = f"{path} is missing, though the ledger says that it exists"
            else:
                why = f"can't open {path}: {error.strerror or error}"
            raise StoreError(why, fix="If it can't be restored, run `d2st cache repair` on the store") from error
        try:
            index = read_index(descriptor, slots=SHARD_FRAMES, where=str(path))
            return OpenShard(descriptor, *_layout(index, self._frame_bytes + CRC_BYTES), self._known(shard, descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def _known(self, shard: int, descriptor: int) -> bytearray:
        """`OpenShard.verified` from before, if the file is the one that it was."""
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        before = self._verified.get(shard)
        if before is None or before[0] != identity:
            before = self._verified[shard] = (identity, bytearray(SHARD_FRAMES))
        return before[1]


def _files_each() -> int:
    """How many files each reader of this process may keep open: 4 layers of int8 are 12 readers."""
    import resource  # POSIX, as the direct reader is

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft < 0 else max(1, min(OPEN_FILES, soft // 2 // len(_ALL)))


def _layout(index: np.ndarray, size: int) -> tuple[list[int], list[int]]:
    """`offsets` and `together` of an index (slots, 2), for frames that take `size` bytes with their checksum."""
    there = (index[:, 0] != EMPTY) & (index[:, 1] == size)
    offsets = np.where(there, index[:, 0], 0).astype(np.int64)
    follows = (there[1:] & there[:-1] & (np.diff(offsets) == size)).tolist()
    together = [1] * len(offsets)
    for slot in range(len(offsets) - 2, -1, -1):
        if follows[slot]:
            together[slot] = together[slot + 1] + 1
    return np.where(there, offsets, -1).tolist(), together
