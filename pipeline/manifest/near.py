"""Near-duplicates across splits: the same footage in another encoding, size or brightness, which no byte comparison finds.

A perceptual hash of 64 bits a frame (pHash: Zauner, 2010): the frame in grey at 32x32, its 8x8 lowest cosine frequencies without the mean,
one bit each for above the median. Two files are near when the hashes of their frames differ in at most 6 bits of 64 on average. A fake is
near its own source, and a source that is in another split than its fake is a leak too.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from d2st.cache.errors import MediaError
from d2st.pipeline.manifest.check import EXAMPLES, Finding
from d2st.pipeline.media import DecodePool, Job

__all__ = ["check_near", "hash_frame", "hash_media", "near_pairs"]

FRAMES = 3  # of a video
SIDE, KEPT = 32, 8
MOST_BITS = 6  # of 64, on average over the frames
FLAT = 4.0  # grey levels of deviation below which a frame shows nothing (black, white) and has no hash
BLOCK = 512

_PLACE = (np.arange(SIDE) + 0.5) * np.pi / SIDE
_COSINES = np.cos(np.arange(KEPT)[:, None] * _PLACE)  # (8, 32), DCT-II


def hash_frame(image: np.ndarray) -> int | None:
    """64 bits of an RGB frame (H, W, 3) uint8; None where it shows nothing."""
    grey = np.asarray(Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    if grey.std() < FLAT:
        return None
    low = (_COSINES @ grey @ _COSINES.T).ravel()  # (64,)
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean: brightness tells nothing
    return int(np.packbits(bits).view(">u8")[0])


def hash_media(
    manifest: pl.DataFrame, root: Path, *, on_done: Callable[[int], None] = lambda number: None
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (N, 3) uint64 of the samples in order, and how many of them each has (N,); images have one, unreadable files none."""
    hashes, counts = np.zeros((manifest.height, FRAMES), np.uint64), np.zeros(manifest.height, np.int64)

    def jobs() -> Iterator[Job]:
        for number, (path, kind, files) in enumerate(manifest.select("path", "kind", "frame_files").iter_rows()):
            yield Job(str(number), str(root / path), kind, FRAMES, "even", None if files is None else tuple(files))

    with DecodePool() as pool:
        for job, found in pool.map(jobs()):
            if not isinstance(found, MediaError):
                made = [made for image in found.images if (made := hash_frame(image)) is not None][:FRAMES]
                hashes[int(job.key), : len(made)], counts[int(job.key)] = made, len(made)
            on_done(int(job.key) + 1)
    return hashes, counts


def near_pairs(hashes: np.ndarray, counts: np.ndarray, groups: Sequence[object]) -> list[tuple[int, int]]:
    """Pairs (i, j) of different groups that are near; of two files with different numbers of hashes, the first ones are compared.

    Args:
        hashes: (N, F) uint64. counts: (N,). groups: N hashable values, such as splits.
    """
    names = {name: code for code, name in enumerate(dict.fromkeys(groups))}
    codes = np.array([names[name] for name in groups])
    pairs = []
    for group in range(len(names)):
        own = np.flatnonzero((codes == group) & (counts > 0))
        later = np.flatnonzero((codes > group) & (counts > 0))
        for begin in range(0, len(own), BLOCK):
            some = own[begin : begin + BLOCK]
            shared = np.minimum(counts[some][:, None], counts[later])  # (b, M)
            bits = np.zeros(shared.shape, np.int64)
            for frame in range(hashes.shape[1]):
                differ = np.bitwise_count(hashes[some, frame][:, None] ^ hashes[later, frame]).astype(np.int64)
                bits += np.where(frame < shared, differ, 0)
            at, other = np.nonzero(bits <= MOST_BITS * shared)
            pairs += zip(some[at].tolist(), later[other].tolist(), strict=True)
    return pairs


def check_near(manifest: pl.DataFrame, root: Path, *, on_done: Callable[[int], None] = lambda number: None) -> list[Finding]:
    """What of the manifest looks alike across splits. Decodes a few frames of every file."""
    rows = manifest.filter(pl.col("duplicate_of").is_null()).sort("sample_id")
    hashes, counts = hash_media(rows, root, on_done=on_done)
    pairs = near_pairs(hashes, counts, rows["split"].cast(pl.String).to_list())
    found = []
    if pairs:
        paths, splits = rows["path"], rows["split"].cast(pl.String)
        shown = tuple(f"{paths[i]} ({splits[i]}) ~ {paths[j]} ({splits[j]})" for i, j in pairs[:EXAMPLES])
        fix = "Give both the same identity and split anew (d2st manifest split), or remove one"
        found.append(
            Finding("error", "near_duplicate_leak", "pairs of files look alike and are in two splits", fix, len(pairs), shown)
        )
    if unseen := int((counts == 0).sum()):
        names = tuple(rows["path"].gather(np.flatnonzero(counts == 0)[:EXAMPLES].tolist()))
        fix = "The build will name the reason of those that can't be read"
        found.append(
            Finding("warning", "not_compared", "files show nothing or can't be read, and were not compared", fix, unseen, names)
        )
    return found
