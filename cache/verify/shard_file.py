"""One shard file against what the ledger says of it. Where each frame lies follows from the ledger, so a damaged index hides nothing.

Without `deep`, size and index are looked at. With it every byte is read, in blocks: the checksum of each frame says which samples are hit,
that of the whole file finds what frames can't tell, such as two files that changed places.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.checksum import crc32c, crc64
from d2st.cache.shard import CRC_BYTES, EMPTY, FileDigest

__all__ = ["Finding", "check_shard_file", "index_bytes", "index_size"]

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A fault of a shard file: a code of `damage.KINDS`, a sentence, and the slots whose frames can't be read or trusted."""

    kind: str
    detail: str
    slots: tuple[int, ...]


def check_shard_file(
    path: Path, digest: FileDigest, slots: Sequence[int], *, frame_bytes: int | None, deep: bool, sealed: bool
) -> tuple[Finding | None, int]:
    """Check one file; returns what is wrong, if anything, and how many bytes were read.

    Args:
        digest: what the ledger says.
        slots: those that hold a frame, ascending; the frames lie in this order.
        frame_bytes: of one frame without its checksum, where the array's metadata says it.
        sealed: the digest is a CRC-64; False for stores of format 1, which have a CRC-32C.
    """
    everything = tuple(slots)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Finding("missing", "", everything), 0
    except OSError as error:
        return Finding("unreadable", error.strerror or str(error), everything), 0
    try:
        size = os.fstat(descriptor).st_size
        if size != digest.size_bytes:
            if _ends_with_index(descriptor, size):
                return Finding("swapped", f"{size} bytes, {digest.size_bytes} were written", everything), 0
            return Finding("truncated", f"{size} bytes, {digest.size_bytes} were written", everything), 0
        index_at = size - index_size()
        chunk_bytes, rest = divmod(index_at, max(1, len(slots)))
        if not slots or rest or chunk_bytes <= CRC_BYTES or frame_bytes not in (None, chunk_bytes - CRC_BYTES):
            return Finding("metadata", f"{len(slots)} frames of {frame_bytes} bytes do not fill {size} bytes", everything), 0
        index = os.pread(descriptor, size - index_at, index_at)
        if index != index_bytes(slots, chunk_bytes):
            return Finding("checksum", "its index is not the one that was written", everything), size - index_at
        if not deep:
            return None, size - index_at
        bad, checksum = _read_frames(descriptor, slots, chunk_bytes, crc64 if sealed else crc32c)
        if bad:
            return Finding("checksum", f"{len(bad)} of {len(slots)} frames", tuple(bad)), size
        if (crc64 if sealed else crc32c)(index, checksum) != digest.checksum:
            return Finding("swapped", "", everything), size
        return None, size
    except OSError as error:
        return Finding("unreadable", error.strerror or str(error), everything), 0
    finally:
        os.close(descriptor)


def index_size() -> int:
    """Bytes of a shard's index with its checksum."""
    return SHARD_FRAMES * 16 + CRC_BYTES


def index_bytes(slots: Sequence[int], chunk_bytes: int) -> bytes:
    """The index that a shard with frames in `slots` has, with its checksum."""
    index = np.full((SHARD_FRAMES, 2), EMPTY, dtype="<u8")
    index[list(slots)] = [(position * chunk_bytes, chunk_bytes) for position in range(len(slots))]
    return index.tobytes() + crc32c(index).to_bytes(CRC_BYTES, "little")


def _ends_with_index(descriptor: int, size: int) -> bool:
    """Whether the file is a whole one, if not the one that was written here."""
    if size < index_size():
        return False
    tail = os.pread(descriptor, index_size(), size - index_size())
    return crc32c(tail[:-CRC_BYTES]) == int.from_bytes(tail[-CRC_BYTES:], "little")


def _read_frames(descriptor: int, slots: Sequence[int], chunk_bytes: int, extend: "type[crc64]") -> tuple[list[int], int]:
    """Slots whose frame fails its checksum or can't be read, and the checksum of all frames."""
    bad, checksum = [], 0
    at_once = max(1, BLOCK_BYTES // chunk_bytes)
    block = memoryview(bytearray(min(at_once, len(slots)) * chunk_bytes))
    for begin in range(0, len(slots), at_once):
        part = slots[begin : begin + at_once]
        data = block[: len(part) * chunk_bytes]
        try:
            if _read_fully(descriptor, data, begin * chunk_bytes) < len(data):
                bad += part
                continue
        except OSError:  # a bad sector: what lies behind it may be whole
            bad += part
            continue
        checksum = extend(data, checksum)
        for position, slot in enumerate(part):
            chunk = data[position * chunk_bytes : (position + 1) * chunk_bytes]
            if crc32c(chunk[:-CRC_BYTES]) != int.from_bytes(chunk[-CRC_BYTES:], "little"):
                bad.append(slot)
    return bad, checksum


def _read_fully(descriptor: int, data: memoryview, offset: int) -> int:
    done = 0
    while done < len(data):
        count = os.preadv(descriptor, [data[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
