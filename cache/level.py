"""One level of a store: arrays that share their rows, a config with its fingerprint, and a ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.arrays import ensure_group, read_attributes, shard_path
from d2st.cache.errors import StoreError
from d2st.cache.files import sync_folder
from d2st.cache.fingerprint import check_same, fingerprint
from d2st.cache.ledger import committed_shards, read_ledger, write_part
from d2st.cache.shard import FileDigest, ShardWriter

__all__ = ["Level", "ensure_level", "open_level"]


@dataclass(frozen=True)
class Level:
    """A level on the disk.

    Attributes:
        config: the declared values that made it; `fingerprint` is their digest.
        notes: what helps people and commands but changes no stored byte, such as the name under which weights were asked for.
    """

    store: Path
    name: str
    config: dict[str, Any]
    fingerprint: str
    notes: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.store / self.name

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    def committed(self) -> set[int]:
        """Numbers of the shards that exist."""
        return committed_shards(self.ledger)

    def rows(self) -> pl.DataFrame:
        """The ledger: one row a sample, cached or rejected (`ledger.LEDGER_SCHEMA`)."""
        return read_ledger(self.ledger)

    def withdraw(self, shard: int) -> None:
        """Let shard number `shard` no longer exist, so that a build computes it anew; its files stay until then."""
        (self.ledger / f"{shard:06d}.parquet").unlink(missing_ok=True)
        if self.ledger.is_dir():
            sync_folder(self.ledger)

    def shard_file(self, array: str, shard: int, *, frame_dims: int) -> Path:
        """The file of shard number `shard` of the array named `array`."""
        return shard_path(self.path / array, shard, frame_dims=frame_dims)

    def commit(
        self, shard: int, rows: pl.DataFrame, writers: Mapping[str, ShardWriter | None], extra: Mapping[str, FileDigest]
    ) -> None:
        """Make shard number `shard` exist; its files must be on the disk already."""
        digests = dict(extra)
        for writer in writers.values():
            if writer is not None and writer.digest is not None:
                digests[writer.path.relative_to(self.store).as_posix()] = writer.digest
        write_part(self.ledger, shard, rows, digests)


def ensure_level(store: Path, name: str, config: dict[str, Any], notes: dict[str, Any] | None = None) -> Level:
    """Create the level, or open the one that is there if it was made with the very same config (its notes stay as they are).

    Raises:
        FingerprintError: it was made with another config; names each field that differs.
    """
    path = store / name
    if (path / "zarr.json").exists():
        level = open_level(store, name)
        check_same(
            level.config,
            config,
            where=f"the {name} level of {store}",
            fix="Use the same options as before, or another --cache folder",
        )
        return level
    ensure_group(path, {"d2st": {"config": config, "fingerprint": fingerprint(config), "notes": notes or {}}})
    return open_level(store, name)


def open_level(store: Path, name: str) -> Level:
    """Open an existing level. Raises StoreError when it is missing, damaged, or its config was edited by hand."""
    declared = read_attributes(store / name).get("d2st")
    if not isinstance(declared, dict) or not {"config", "fingerprint"} <= declared.keys():
        raise StoreError(
            f"{store / name} is not a level of a d2st store", fix="Point --cache at a folder that `d2st cache build` made"
        )
    if fingerprint(declared["config"]) != declared["fingerprint"]:
        raise StoreError(
            f"the config in {store / name}/zarr.json does not match its fingerprint: it was changed after the build",
            fix="Restore that file, or build the store again",
        )
    return Level(store, name, declared["config"], declared["fingerprint"], declared.get("notes", {}))
