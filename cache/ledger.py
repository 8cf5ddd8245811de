"""The ledger: one Parquet part a shard, and the only thing that makes a shard exist.

A missing Zarr chunk reads as zeros, in silence. So no reader goes past the ledger. A part says which samples lie where, size and checksum
of each of the shard's files, and with which config they were made; it is sealed, so that damage to it is found by whoever reads it.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.errors import StoreError
from d2st.cache.fingerprint import canonical_json
from d2st.cache.seal import PLACEHOLDER, check_seal, seal
from d2st.cache.shard import FileDigest

__all__ = [
    "LEDGER_SCHEMA",
    "Part",
    "committed_shards",
    "part_bytes",
    "read_part",
    "read_sealed",
    "rows_among",
    "sealed_parquet",
]

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


@dataclass(frozen=True)
class Part:
    """One committed shard.

    Attributes:
        rows: `LEDGER_SCHEMA`, one row a sample, cached or rejected.
        files: size and checksum of each file, by name relative to the level's folder.
        config: the level's config.
        source: `content` of the part of another level that this shard was computed from.
    """

    shard: int
    rows: pl.DataFrame
    files: dict[str, FileDigest]
    config: dict[str, Any] | None
    source: str | None

    @cached_property
    def content(self) -> str:
        """A digest of what the shard holds: equal when rows and bytes are, whoever computed it and when."""
        files = {name: [digest.size_bytes, digest.checksum] for name, digest in self.files.items()}
        rows = self.rows.select("sample_id", "start", "frames").rows()
        return hashlib.blake2b(canonical_json({"files": files, "rows": rows}).encode(), digest_size=16).hexdigest()


def sealed_parquet(frame: pl.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    """`frame` as a sealed Parquet file; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False, metadata={**(metadata or {}), "d2st.seal": PLACEHOLDER})
    return seal(buffer.getvalue())


def read_sealed(path: Path, *, sealed: bool = True) -> tuple[pl.DataFrame, dict[str, str]]:
    """A Parquet file and its metadata.

    Args:
        sealed: False accepts files without a seal, as stores of format 1 have them.

    Raises:
        StoreError: it is missing, damaged or no Parquet file.
    """
    fix = "Run `d2st cache repair` on the store, or restore the file"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror or error}", fix=fix) from error
    if sealed:
        check_seal(data, where=str(path))
    try:
        return pl.read_parquet(io.BytesIO(data)), pl.read_parquet_metadata(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise StoreError(f"{path} is damaged: {str(error)[:200]}", fix=fix) from error


def part_bytes(
    rows: pl.DataFrame, files: Mapping[str, FileDigest], *, config: Mapping[str, Any], source: str | None = None
) -> bytes:
    """The ledger part of a shard. Arguments as in `Part`."""
    listed = {name: [digest.size_bytes, digest.checksum] for name, digest in sorted(files.items())}
    metadata = {"d2st.files": json.dumps(listed, sort_keys=True), "d2st.config": canonical_json(dict(config))}
    if source is not None:
        metadata["d2st.source"] = source
    return sealed_parquet(rows.match_to_schema(LEDGER_SCHEMA), metadata)


def rows_among(rows: pl.DataFrame, samples: Set[str]) -> pl.DataFrame:
    """Those rows of one part that are of `samples`, which may be a million: `is_in` would convert them all for each part anew."""
    return rows.filter(pl.Series([sample in samples for sample in rows["sample_id"]], dtype=pl.Boolean))


def committed_shards(folder: Path) -> set[int]:
    """Numbers of the shards that exist; what a file manager or a synchroniser left, such as `000000 (copy).parquet`, is none."""
    return {int(part.stem) for part in folder.glob("[0-9]*.parquet") if part.stem.isdecimal()}


def read_part(folder: Path, shard: int, *, sealed: bool = True) -> Part:
    """The part of shard number `shard`. Raises StoreError when it is missing or damaged."""
    path = folder / f"{shard:06d}.parquet"
    rows, metadata = read_sealed(path, sealed=sealed)
    try:
        listed = json.loads(metadata["d2st.files"])
        files = {name: FileDigest(*values) for name, values in listed.items()}
        config = json.loads(metadata["d2st.config"]) if "d2st.config" in metadata else None
        return Part(shard, rows.match_to_schema(LEDGER_SCHEMA), files, config, metadata.get("d2st.source"))
    except (pl.exceptions.PolarsError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is no ledger part: {str(error)[:200]}", fix="Run `d2st cache repair` on the store, or restore the file"
        ) from error
