"""The ledger: one Parquet part a shard, and the only thing that makes a shard exist.

A missing Zarr chunk reads as zeros, in silence. So no reader goes past the ledger, and a part is renamed into place only after the shard's
files are on the disk. Killed anywhere before that rename, the shard simply is not there yet.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.shard import FileDigest

__all__ = ["LEDGER_SCHEMA", "committed_shards", "parquet_bytes", "read_digests", "read_ledger", "write_part"]

LEDGER_SCHEMA = pl.Schema(
    {
        "sample_id": pl.String,
        "start": pl.Int64,  # first row of the flat array, null when rejected
        "frames": pl.Int32,  # rows [start, start + frames)
        "planned": pl.Int32,  # frames that were asked for; more than `frames` when the media is short
        "reason": pl.String,  # null when cached, else a reason code
        "detail": pl.String,  # one sentence for people
        "info": pl.String,  # canonical JSON: what the producer wants to remember of the sample
    }
)


def parquet_bytes(frame: pl.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    """`frame` as a Parquet file; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False, metadata=dict(metadata or {}))
    return buffer.getvalue()


def write_part(folder: Path, shard: int, rows: pl.DataFrame, digests: Mapping[str, FileDigest]) -> None:
    """Commit shard number `shard`: its rows, and size and checksum of each of its files (names relative to the store)."""
    files = {name: [digest.size_bytes, digest.crc32c] for name, digest in sorted(digests.items())}
    metadata = {"d2st.files": json.dumps(files, sort_keys=True)}
    write_atomic(folder / f"{shard:06d}.parquet", parquet_bytes(rows.match_to_schema(LEDGER_SCHEMA), metadata))


def committed_shards(folder: Path) -> set[int]:
    """Numbers of the shards that exist."""
    return {int(part.stem) for part in folder.glob("[0-9]*.parquet")}


def read_ledger(folder: Path) -> pl.DataFrame:
    """Rows of all committed shards, by shard. Raises StoreError for a part that is no valid Parquet file."""
    frames = [LEDGER_SCHEMA.to_frame()]
    for part in sorted(folder.glob("[0-9]*.parquet")):
        try:
            frames.append(pl.read_parquet(part).match_to_schema(LEDGER_SCHEMA))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StoreError(
                f"ledger part {part} is damaged: {str(error)[:200]}",
                fix="Delete this file and run `d2st cache build` again: it rebuilds that shard alone",
            ) from error
    return pl.concat(frames)


def read_digests(folder: Path, shard: int) -> dict[str, FileDigest]:
    """Size and CRC-32C of each file of a committed shard, by name relative to the store."""
    files = json.loads(pl.read_parquet_metadata(folder / f"{shard:06d}.parquet")["d2st.files"])
    return {name: FileDigest(*values) for name, values in files.items()}
