"""A store: one folder with a manifest, a plan and two levels.

faces.d2st/
  zarr.json                   Zarr v3 group; attributes: the format's version
  manifest.parquet            what each sample is (labels, splits, identities); no absolute path
  plan/00000.parquet          which sample lies in which shard; a part is added when samples are
  crops/frames/               uint8 (frames, S, S, 3)
  crops/ledger/000000.parquet one part a shard
  tokens/<layer>/maps/        (frames, H, W, C)
  tokens/<layer>/cls/         (frames, C)
  tokens/moments/             channel statistics, one file a shard
  tokens/ledger/000000.parquet
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from d2st.cache.arrays import ensure_group, read_array_meta, read_attributes
from d2st.cache.errors import StoreError
from d2st.cache.files import remove_leftovers
from d2st.cache.level import Level, open_level
from d2st.cache.moments import Moments, merge

__all__ = ["FORMAT", "Store", "TokenLevel", "locked_for_building"]

FORMAT = 1


class TokenLevel:
    """The token maps of a store, as training sees them.

    Attributes:
        layers: names of the cached layers, in the order of the backbone.
        grid: (H, W) of the token maps.
        channels: C.
        config: the declared values they were made with; `fingerprint` is their digest.
    """

    def __init__(self, level: Level) -> None:
        self.level = level
        self.config = level.config
        self.fingerprint = level.fingerprint
        self.layers: tuple[str, ...] = tuple(level.config["layers"])
        (height, width, channels), _ = read_array_meta(level.path / self.layers[0] / "maps")
        self.grid = (height, width)
        self.channels = channels

    @cached_property
    def stats(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation (C,), float32, of each layer's maps (`layer`) and of its CLS token (`layer + "/cls"`).

        Frames of the training split alone are counted. Empty when the store has none.
        """
        totals: dict[str, Moments] = {}
        for shard in sorted(self.level.committed()):
            for name, moments in read_moments(moments_path(self.level, shard)).items():
                totals[name] = merge(totals[name], moments) if name in totals else moments
        return {
            name: (total.mean.astype(np.float32), total.std.astype(np.float32)) for name, total in totals.items() if total.count
        }


def moments_path(level: Level, shard: int) -> Path:
    """Where the channel statistics of one shard lie."""
    return level.path / "moments" / f"{shard:06d}.safetensors"


def read_moments(path: Path) -> dict[str, Moments]:
    """Channel statistics of one shard, by layer name. Raises StoreError when the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{path} is missing or damaged: {error}",
            fix="Delete this shard's part of tokens/ledger and run `d2st cache build` again",
        ) from error
    names = [key.removesuffix(".count") for key in tensors if key.endswith(".count")]
    return {name: Moments(int(tensors[f"{name}.count"][0]), tensors[f"{name}.mean"], tensors[f"{name}.m2"]) for name in names}


class Store:
    """An existing store, for reading.

    Args:
        path: the store's folder.

    Raises:
        StoreError: there is no store, or one of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "zarr.json").is_file():
            raise StoreError(
                f"there is no d2st store at {path}", fix="Build one: d2st cache build MANIFEST --cache " + str(path)
            )
        version = read_attributes(path).get("d2st", {}).get("format")
        if version != FORMAT:
            raise StoreError(
                f"{path} has store format {version}, this d2st reads {FORMAT}", fix="Install the d2st that wrote it"
            )

    @classmethod
    def open(cls, path: Path | str) -> "Store":
        """Open the store at `path`. Raises StoreError as the class does."""
        return cls(Path(path))

    @classmethod
    def ensure(cls, path: Path | str) -> "Store":
        """Open the store at `path`, or make an empty one. Raises StoreError when something else is there."""
        path = Path(path)
        if path.exists() and not (path / "zarr.json").exists() and (path.is_file() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is no d2st store", fix="Name a new folder with --cache")
        ensure_group(path, {"d2st": {"format": FORMAT}})
        return cls(path)

    @property
    def crops(self) -> Level:
        """The face crops. Raises StoreError when there are none yet."""
        return open_level(self.path, "crops")

    @cached_property
    def tokens(self) -> TokenLevel:
        """The token maps. Raises StoreError when there are none yet."""
        if not (self.path / "tokens" / "zarr.json").exists():
            raise StoreError(f"{self.path} holds no token maps yet", fix="Run `d2st cache build` to its end")
        return TokenLevel(open_level(self.path, "tokens"))

    def manifest(self) -> pl.DataFrame:
        """What each sample is, as it was at the last build."""
        try:
            return pl.read_parquet(self.path / "manifest.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(
                f"{self.path}/manifest.parquet is missing or damaged", fix="Run `d2st cache build` again"
            ) from error

    def samples(self, manifest: pl.DataFrame | None = None) -> pl.DataFrame:
        """One row a sample that has token maps: the manifest's columns, `start` (first row) and `frames_cached`, by sample_id.

        Args:
            manifest: labels and splits to use instead of those at build time; samples that it lacks are left out.
        """
        rows = self.tokens.level.rows().filter(pl.col("reason").is_null())
        rows = rows.select("sample_id", "start", pl.col("frames").alias("frames_cached"))
        described = self.manifest() if manifest is None else manifest
        return described.join(rows, on="sample_id", how="inner").sort("sample_id")

    def rejected(self, manifest: pl.DataFrame | None = None) -> pl.DataFrame:
        """One row a sample that could not be cached: the manifest's columns, `reason` and `detail`, by sample_id."""
        rows = self.crops.rows().filter(pl.col("reason").is_not_null()).select("sample_id", "reason", "detail")
        described = self.manifest() if manifest is None else manifest
        return described.join(rows, on="sample_id", how="inner").sort("sample_id")


@contextmanager
def locked_for_building(store: Path) -> Iterator[None]:
    """Hold the store's building lock; clears what killed builders left. Raises StoreError while another process builds."""
    try:
        file = open(store / ".lock", "w")  # noqa: SIM115, closed below
    except OSError as error:
        raise StoreError(f"can't write in {store}: {error.strerror}", fix="Check the folder's permissions") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process is building {store}", fix="Wait for it, or stop it first") from error
        remove_leftovers(store)
        yield
