"""Byte-identical files: hashed only where another file has the same size, so that a scan of distinct files opens none.

Published data sets do hold copies (a real clip listed twice, a train video in the test list), and a copy across splits is a leak.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from d2st.pipeline.manifest.layouts import Found
from d2st.pipeline.manifest.walk import media_kind, natural_key

__all__ = ["find_duplicates"]

BLOCK = 1 << 18  # bytes a read, so that memory does not grow with the file
BATCH = 128  # samples a task: one task a sample costs more than hashing a small file


def find_duplicates(root: Path, found: Sequence[Found]) -> tuple[list[int | None], int]:
    """For each sample, the place of the first one (in the order given) with the same bytes, or None; and how many could not be read.

    A frame folder equals another when all their frames do, in order. Empty files are left out: they have no content to share.
    """
    same_size: dict[tuple[bool, int, int | None], list[int]] = defaultdict(list)
    for place, sample in enumerate(found):
        if sample.size > 0:
            same_size[sample.kind == "frames", sample.size, sample.frames].append(place)
    candidates = sorted(place for places in same_size.values() if len(places) > 1 for place in places)
    batches = [candidates[start : start + BATCH] for start in range(0, len(candidates), BATCH)]

    def digests(batch: Sequence[int]) -> list[bytes | None]:
        return [_digest(root / found[place].path, found[place]) for place in batch]

    first: dict[bytes, int] = {}
    duplicate_of: list[int | None] = [None] * len(found)
    unreadable = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for batch, made in zip(batches, pool.map(digests, batches), strict=True):
            for place, digest in zip(batch, made, strict=True):
                if digest is None:
                    unreadable += 1
                elif (original := first.setdefault(digest, place)) != place:
                    duplicate_of[place] = original
    return duplicate_of, unreadable


def _digest(path: Path, sample: Found) -> bytes | None:
    """None for a file that can't be read: the build reports it with its reason code."""
    digest = blake2b(sample.kind.encode() if sample.kind == "frames" else b"", digest_size=16)
    try:
        for file in _files(path, sample):
            with open(file, "rb", buffering=0) as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
            if sample.kind == "frames":
                digest.update(os.stat(file).st_size.to_bytes(8, "big"))  # so that a boundary between frames counts too
    except OSError:
        return None
    return digest.digest()


def _files(path: Path, sample: Found) -> Iterator[Path]:
    if sample.kind != "frames":
        yield path
        return
    if sample.frame_files is not None:
        yield from (path / name for name in sample.frame_files)
        return
    names = (name for name in os.listdir(path) if not name.startswith(".") and media_kind(name) == "image")
    yield from (path / name for name in sorted(names, key=natural_key))
