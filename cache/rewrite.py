"""One committed shard without some of its samples: frames that stay keep their slots, so that no row number moves, and the file shrinks.

Crops and token maps of a shard belong together by the digest of the crops. The new crops are written first but committed last, after all
token maps that name their digest: whoever is killed in between runs the same command again, and it knows what is done by that digest.
"""

import shutil
from collections.abc import Collection, Sequence, Set
from contextlib import ExitStack

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.checksum import crc32c, crc64
from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.ledger import Part, part_bytes, rows_among
from d2st.cache.level import Level, StagedShard
from d2st.cache.moments import moments_name
from d2st.cache.reader import ArrayReader
from d2st.cache.shard import CRC_BYTES, FileDigest
from d2st.cache.statistics import statistics_bytes
from d2st.cache.verify.shard_file import index_bytes

__all__ = ["remove_shard", "rewrite_shard"]

READ_FRAMES = 16


def remove_shard(levels: Sequence[Level], shard: int) -> None:
    """Let a shard no longer exist in any of these levels, token maps before crops."""
    for level in sorted(levels, key=lambda level: level.name == "crops"):
        level.withdraw(shard)
        _delete_files(level, shard, keep=())
        (level.path / moments_name(shard)).unlink(missing_ok=True)


def rewrite_shard(crops: Level, tokens: Sequence[Level], shard: int, kept: pl.DataFrame, *, counted: Set[str]) -> None:
    """Write a shard with these ledger rows of its crops alone; nobody else may be at work on the store.

    Args:
        tokens: the levels that have this shard's token maps.
        kept: rows of the crops' ledger part, unchanged.
        counted: samples whose frames enter the channel statistics.

    Raises:
        StoreError: what is to be kept is damaged, or token maps are not of these crops.
    """
    old = crops.part(shard)
    slots = _slots(kept, shard)
    same_frames = slots == _slots(old.rows, shard)
    with ExitStack() as stack:
        staged = stack.enter_context(crops.stage(shard))
        files = dict(old.files) if same_frames else _copy_frames(crops, staged, shard, slots)
        content = Part(shard, kept, files, crops.config, None).content
        for level in tokens:
            _rewrite_tokens(level, shard, kept, slots, old=old.content, new=content, counted=counted)
        if same_frames:
            write_atomic(crops.ledger / f"{shard:06d}.parquet", part_bytes(kept, files, config=crops.config))
        else:
            staged.commit(kept, replace=True)
            _delete_files(crops, shard, keep=files)


def _slots(rows: pl.DataFrame, shard: int) -> list[int]:
    """Slots of a shard that hold a frame of these rows, ascending."""
    cached = rows.filter(pl.col("reason").is_null()).sort("start").select("start", "frames")
    return [row - shard * SHARD_FRAMES for start, frames in cached.iter_rows() for row in range(start, start + frames)]


def _rewrite_tokens(
    level: Level, shard: int, kept: pl.DataFrame, slots: list[int], *, old: str, new: str, counted: Set[str]
) -> None:
    part = level.part(shard)
    if part.source == new and part.source != old:
        return  # done by a run that was stopped after this
    if part.source != old:
        raise StoreError(
            f"token maps of shard {shard} in {level.path} are not of the crops that are there",
            fix="Run `d2st cache repair` first",
        )
    rows = part.rows.join(kept.select("sample_id"), on="sample_id", how="semi", maintain_order="left")
    if rows.height == part.rows.height:
        write_atomic(level.ledger / f"{shard:06d}.parquet", part_bytes(rows, part.files, config=level.config, source=new))
        return
    with level.stage(shard) as staged:
        files = _copy_frames(level, staged, shard, slots)
        before, after = (rows_among(table, counted) for table in (part.rows, rows))
        if after.height < before.height:
            staged.write(moments_name(shard), statistics_bytes(level, after))
        staged.commit(rows, source=new, replace=True)
        _delete_files(level, shard, keep=files)


def _copy_frames(level: Level, staged: StagedShard, shard: int, slots: list[int]) -> dict[str, FileDigest]:
    """Copy the frames of these slots into a staged shard; returns what its ledger part will list."""
    made = {}
    for name in level.part(shard).files if slots else ():
        array = name.split("/c/")[0]
        with ArrayReader(level.array(array)) as reader:
            writer, used, checksum = staged.writer(array, frame_dims=len(reader.frame_shape)), 0, 0
            for begin in range(0, len(slots), READ_FRAMES):
                block = slots[begin : begin + READ_FRAMES]
                frames = np.empty((len(block), *reader.frame_shape), reader.dtype)
                reader.read(np.array(block) + shard * SHARD_FRAMES, frames)
                for slot, frame in zip(block, frames, strict=True):
                    writer.skip(slot - used)
                    writer.append(frame[None])
                    used = slot + 1
                    checksum = crc64(crc32c(frame).to_bytes(CRC_BYTES, "little"), crc64(frame, checksum))
            chunk_bytes = reader.frame_bytes + CRC_BYTES
        index = index_bytes(slots, chunk_bytes)
        made[name] = FileDigest(len(slots) * chunk_bytes + len(index), crc64(index, checksum))
    return made


def _delete_files(level: Level, shard: int, *, keep: Collection[str]) -> None:
    """Delete files of a shard that its ledger part no longer lists."""
    kept = {name.split("/c/")[0] for name in keep}
    for metadata in (*level.path.glob("*/zarr.json"), *level.path.glob("*/*/zarr.json")):
        if metadata.parent.relative_to(level.path).as_posix() not in kept:
            shutil.rmtree(metadata.parent / "c" / str(shard), ignore_errors=True)
