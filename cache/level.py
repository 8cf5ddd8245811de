"""One level of a store: arrays that share their rows, a config with its fingerprint, and a ledger."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.arrays import SHARD_FRAMES, ensure_group, read_attributes, shard_path
from d2st.cache.errors import StoreError
from d2st.cache.files import sync_folder
from d2st.cache.fingerprint import check_same, fingerprint
from d2st.cache.ledger import LEDGER_SCHEMA, Part, committed_shards, part_bytes, read_part
from d2st.cache.shard import ShardWriter
from d2st.cache.staging import Staging, roll_forward

__all__ = [
    "FORMAT",
    "FORMATS_READ",
    "Level",
    "StagedShard",
    "ensure_level",
    "ensure_root",
    "open_level",
    "read_format",
    "require_writable",
]

FORMAT = 2
FORMATS_READ = (1, 2)  # 1 has no seals


@dataclass(frozen=True)
class Level:
    """A level on the disk.

    Attributes:
        store: the store's folder; `name` is the level's, below it.
        config: the declared values that made it; `fingerprint` is their digest.
        notes: what helps people and commands but changes no stored byte, such as the name under which weights were asked for.
        format: of the store.
    """

    store: Path
    name: str
    config: dict[str, Any]
    fingerprint: str
    notes: dict[str, Any]
    format: int = FORMAT

    @property
    def path(self) -> Path:
        return self.store / self.name

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    def array(self, name: str) -> Path:
        """The folder of the array named `name`, such as "frames" or "block_2/maps"."""
        return self.path / name

    def shard_file(self, array: str, shard: int, *, frame_dims: int) -> Path:
        """The file of shard number `shard` of the array named `array`."""
        return shard_path(self.path / array, shard, frame_dims=frame_dims)

    def committed(self) -> set[int]:
        """Numbers of the shards that exist."""
        return committed_shards(self.ledger)

    def part(self, shard: int) -> Part:
        """The ledger part of a shard. Raises StoreError when it is missing, damaged, or was made with another config."""
        part = read_part(self.ledger, shard, sealed=self.format > 1)
        if part.config is not None and fingerprint(part.config) != self.fingerprint:
            raise StoreError(
                f"ledger part {shard} of {self.path} was made with another config than the level's",
                fix="Run `d2st cache repair` on the store",
            )
        if self.format == 1:  # names were relative to the store, and the statistics were among them
            files = {name.removeprefix(f"{self.name}/"): digest for name, digest in part.files.items()}
            files = {name: digest for name, digest in files.items() if not name.startswith("moments/")}
            part = Part(shard, part.rows, files, part.config, part.source)
        return part

    def parts(self) -> Iterator[Part]:
        """All ledger parts, by shard. Raises StoreError as `part` does."""
        for shard in sorted(self.committed()):
            yield self.part(shard)

    def rows(self) -> pl.DataFrame:
        """The ledger: `LEDGER_SCHEMA` and `shard`, one row a sample of each committed shard. A sample that was tried again has several."""
        empty = LEDGER_SCHEMA.to_frame().with_columns(shard=pl.lit(0, pl.Int32))
        return pl.concat([empty, *(part.rows.with_columns(shard=pl.lit(part.shard, pl.Int32)) for part in self.parts())])

    def withdraw(self, shard: int) -> None:
        """Let shard number `shard` no longer exist, so that a build computes it anew; its files stay until then."""
        (self.ledger / f"{shard:06d}.parquet").unlink(missing_ok=True)
        if self.ledger.is_dir():
            sync_folder(self.ledger)

    @contextmanager
    def stage(self, shard: int) -> "Iterator[StagedShard]":
        """Write shard number `shard` apart from the others; what is not committed when the block ends is removed.

        Raises:
            StoreError: the disk is full or not writable.
        """
        staging = Staging(self.path, shard)
        try:
            yield StagedShard(self, staging)
        finally:
            staging.abandon()


@dataclass(frozen=True)
class StagedShard:
    """A shard that is being written; see `Level.stage`."""

    level: Level
    staging: Staging

    def writer(self, array: str, *, frame_dims: int) -> ShardWriter:
        """Where the frames of one array go; `commit` closes it."""
        file = shard_path(Path(array), self.staging.shard, frame_dims=frame_dims)
        return self.staging.writer(file.as_posix(), slots=SHARD_FRAMES)

    def write(self, name: str, data: bytes) -> None:
        """Add a derived file that certifies itself, such as statistics; `name` is relative to the level's folder."""
        self.staging.write(name, data)

    def commit(self, rows: pl.DataFrame, *, source: str | None = None, replace: bool = False) -> bool:
        """Make the shard exist.

        Args:
            rows: `LEDGER_SCHEMA`.
            source: `Part.content` of the shard that this one was computed from.
            replace: take the place of what is there; only for who has the store alone.

        Returns:
            False when somebody else has committed this shard already: theirs stays, ours is removed.
        """
        try:
            files = self.staging.close()
            part = part_bytes(rows, files, config=self.level.config, source=source)
            return self.staging.publish(part, replace=replace)
        except FileNotFoundError:  # we slept for so long that another builder cleared our work away
            return False
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise


def read_format(store: Path) -> int:
    """The format of the store at `store`. Raises StoreError when there is none, or one that this d2st does not read."""
    if not (store / "zarr.json").is_file():
        raise StoreError(f"there is no d2st store at {store}", fix="Build one: d2st cache build MANIFEST --cache " + str(store))
    declared = read_attributes(store).get("d2st")
    version = declared.get("format") if isinstance(declared, dict) else None
    if version not in FORMATS_READ:
        raise StoreError(
            f"{store} has store format {version}, this d2st reads {', '.join(map(str, FORMATS_READ))}",
            fix="Install the d2st that wrote it",
        )
    read_attributes(store, sealed=version > 1)
    return version


def ensure_root(store: Path) -> None:
    """Make the store's root group unless it is there. Raises StoreError for a store of an older format, which can only be read."""
    ensure_group(store, {"d2st": {"format": FORMAT}})
    require_writable(store)


def require_writable(store: Path) -> None:
    """Raise StoreError unless this d2st may add to the store at `store` and change it."""
    if (version := read_format(store)) != FORMAT:
        raise StoreError(
            f"{store} was built by an older d2st (store format {version}): it can be read, but not added to or changed",
            fix="Go on using it for training and evaluation, and build a new one with another --cache to add samples",
        )


def ensure_level(store: Path, name: str, config: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> Level:
    """Create the level, or open the one that is there if it was made with the very same config (its notes stay as they are).

    Raises:
        FingerprintError: it was made with another config; names each field that differs.
    """
    ensure_root(store)
    config = json.loads(json.dumps(config))  # as it will be read: tuples become lists
    if not (store / name / "zarr.json").exists():
        ensure_group(store / name, {"d2st": {"config": config, "fingerprint": fingerprint(config), "notes": dict(notes or {})}})
    level = open_level(store, name)
    check_same(
        level.config,
        config,
        where=f"the {name} level of {store}",
        fix="Use the same options as before, or another --cache folder",
    )
    return level


def open_level(store: Path, name: str) -> Level:
    """Open an existing level. Raises StoreError when it is missing, damaged, or its config was edited by hand."""
    version = read_format(store)
    declared = read_attributes(store / name, sealed=version > 1).get("d2st")
    if not isinstance(declared, dict) or not {"config", "fingerprint"} <= declared.keys():
        raise StoreError(
            f"{store / name} is not a level of a d2st store", fix="Point --cache at a folder that `d2st cache build` made"
        )
    if fingerprint(declared["config"]) != declared["fingerprint"]:
        raise StoreError(
            f"the config in {store / name}/zarr.json does not match its fingerprint: it was changed after the build",
            fix="Run `d2st cache repair` on the store, or build it again",
        )
    roll_forward(store / name)
    return Level(store, name, declared["config"], declared["fingerprint"], declared.get("notes", {}), version)
