"""A store: one folder with a manifest, a plan, face crops, and one or more sets of token maps.

faces.d2st/
  zarr.json                   Zarr v3 group; attributes: the format's version
  manifest.parquet            what each sample is (labels, splits, identities); no absolute path
  plan/00000.parquet          which sample lies in which shard; a part is added when samples are
  crops/frames/               uint8 (frames, S, S, 3)
  crops/ledger/000000.parquet one part a shard
  tokens/<layer>/maps/        (frames, H, W, C)
  tokens/<layer>/scales/      (frames, H, W), int8 stores alone
  tokens/<layer>/cls/         (frames, C)
  tokens/moments/             channel statistics, one file a shard
  tokens/ledger/000000.parquet
  tokens+1/                   layers that were added to `tokens` later
  tokens-NAME/                another set: another backbone or dtype on the same crops
  claims/                     who builds what at the moment

Every small file is sealed (`seal`); each shard file is listed with its checksum in a ledger part. How a shard is committed: `staging`.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load

from d2st.cache.arrays import read_array_meta
from d2st.cache.errors import ConfigError, StoreError
from d2st.cache.files import write_atomic
from d2st.cache.fingerprint import fingerprint
from d2st.cache.ledger import read_sealed, sealed_parquet
from d2st.cache.level import Level, ensure_root, open_level, read_format
from d2st.cache.moments import Moments, merge, moments_name, read_moments
from d2st.cache.plan import read_plan
from d2st.cache.seal import check_seal

__all__ = ["MAIN", "Store", "TokenLevel", "token_folder"]

MAIN = "main"  # the token set that `cache build` makes
CALIBRATION = "calibration.safetensors"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,40}")


def token_folder(name: str) -> str:
    """The folder of the token set named `name`. Raises ConfigError for a name that is not lower-case letters, digits, `_`, `.` and `-`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a token set", fix="Use lower-case letters, digits, '-', '_' and '.', 41 at most"
        )
    return "tokens" if name == MAIN else f"tokens-{name}"


class TokenLevel:
    """One set of token maps of a store, as training sees it: the layers of one level, or of several that were added one after another.

    Attributes:
        layers: names of the cached layers, in the order of the backbone.
        grid: (H, W) of the token maps.
        channels: C.
        config: the declared values they were made with, with all layers; `fingerprint` is their digest.
        dtype: float16, bfloat16 or int8.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._homes = {layer: level for level in levels for layer in level.config["layers"]}
        self.layers: tuple[str, ...] = tuple(sorted(self._homes, key=_depth) if len(levels) > 1 else self._homes)
        self.config = {**levels[0].config, "layers": list(self.layers)}
        self.fingerprint = fingerprint(self.config)
        self.notes = levels[0].notes
        self.dtype: str = self.config.get("dtype", "float16")
        (height, width, channels), _ = read_array_meta(self.array(self.layers[0], "maps"))
        self.grid = (height, width)
        self.channels = channels

    def array(self, layer: str, kind: str) -> Path:
        """The folder of an array; `kind` is maps, cls or (int8 alone) scales."""
        return self._homes[layer].array(f"{layer}/{kind}")

    @cached_property
    def stats(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation (C,), float32, of each layer's maps (`layer`) and of its CLS token (`layer + "/cls"`).

        Frames of the training split alone are counted. Empty when the store has none.
        """
        totals: dict[str, Moments] = {}
        for level in self.levels:
            for shard in sorted(level.committed()):
                found, _ = read_moments(level.path / moments_name(shard), sealed=level.format > 1)
                for name, moments in found.items():
                    totals[name] = merge(totals[name], moments) if name in totals else moments
        return {
            name: (total.mean.astype(np.float32), total.std.astype(np.float32)) for name, total in totals.items() if total.count
        }

    @cached_property
    def calibration(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation (C,), float32, by which each layer was quantised; empty unless `dtype` is int8."""
        if self.dtype != "int8":
            return {}
        return {layer: pair for level in self.levels for layer, pair in read_calibration(level).items()}


def _depth(layer: str) -> list[tuple[int, str]]:
    """Sorts block_2 before block_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", layer)]


def read_calibration(level: Level) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation (C,) float32 by layer. Raises StoreError when the file is missing or damaged."""
    path = level.path / CALIBRATION
    fix = "Run `d2st cache repair` on the store, or restore the file: without it int8 token maps can't be read"
    try:
        data = path.read_bytes()
        check_seal(data, where=str(path))
        tensors = load(data)
        return {layer: (tensors[f"{layer}.mean"], tensors[f"{layer}.std"]) for layer in level.config["layers"]}
    except (OSError, KeyError) as error:
        raise StoreError(f"{path} is missing or damaged: {error}", fix=fix) from error


def _holds_files(folder: Path) -> bool:
    """Whether there is anything but the temporary file of somebody who makes a store there at this very moment."""
    return any(not path.name.startswith(".zarr.json.") for path in folder.iterdir()) and not (folder / "zarr.json").exists()


class Store:
    """An existing store, for reading.

    Args:
        path: the store's folder.
        tokens: which set of token maps `tokens` is.

    Raises:
        StoreError: there is no store, or one of a newer format.
    """

    def __init__(self, path: Path, *, tokens: str = MAIN) -> None:
        self.path = path
        self.token_set = tokens
        self.format = read_format(path)

    @classmethod
    def open(cls, path: Path | str, *, tokens: str = MAIN) -> "Store":
        """Open the store at `path`. Raises StoreError as the class does."""
        return cls(Path(path), tokens=tokens)

    @classmethod
    def ensure(cls, path: Path | str) -> "Store":
        """Open the store at `path`, or make an empty one. Raises StoreError when something else is there."""
        path = Path(path)
        if path.exists() and not (path / "zarr.json").exists() and (path.is_file() or _holds_files(path)):
            raise StoreError(f"{path} exists and is no d2st store", fix="Name a new folder with --cache")
        ensure_root(path)
        return cls(path)

    @property
    def crops(self) -> Level:
        """The face crops. Raises StoreError when there are none yet."""
        return open_level(self.path, "crops")

    @cached_property
    def tokens(self) -> TokenLevel:
        """The token maps. Raises StoreError when there are none yet."""
        levels = self.token_levels(self.token_set)
        if not levels:
            sets = self.token_sets()
            if sets:
                raise StoreError(f"{self.path} has no token set named {self.token_set}", fix=f"It has {', '.join(sets)}")
            raise StoreError(f"{self.path} holds no token maps yet", fix="Run `d2st cache build` to its end")
        return TokenLevel(levels)

    def token_levels(self, name: str) -> list[Level]:
        """The levels of a token set: what it was made with, and each addition of layers."""
        folder = token_folder(name)
        found = [folder, *sorted((path.name for path in self.path.glob(f"{folder}+*")), key=_depth)]
        return [open_level(self.path, name) for name in found if (self.path / name / "zarr.json").exists()]

    def token_sets(self) -> list[str]:
        """Names of the sets of token maps."""
        names = [path.parent.name for path in sorted(self.path.glob("tokens*/zarr.json")) if "+" not in path.parent.name]
        return [MAIN if name == "tokens" else name.removeprefix("tokens-") for name in names]

    def plan(self) -> pl.DataFrame:
        """Where each sample lies (`plan.PLAN_SCHEMA`)."""
        return read_plan(self.path / "plan", sealed=self.format > 1)

    def manifest(self) -> pl.DataFrame:
        """What each sample is, as it was at the last build."""
        try:
            return read_sealed(self.path / "manifest.parquet", sealed=self.format > 1)[0]
        except StoreError as error:
            raise StoreError(error.message, fix="Run `d2st cache build` again with the manifest") from error

    def write_manifest(self, manifest: pl.DataFrame) -> None:
        """Keep `manifest` in the store."""
        write_atomic(self.path / "manifest.parquet", sealed_parquet(manifest))

    def current(self, level: Level) -> pl.DataFrame:
        """The ledger rows of `level` that hold: one a sample, that of the shard in which the plan sees it."""
        return level.rows().join(self.plan().select("sample_id", "shard"), on=["sample_id", "shard"], how="semi")

    def samples(self, manifest: pl.DataFrame | None = None) -> pl.DataFrame:
        """One row a sample that has token maps: the manifest's columns, `start` (first row) and `frames_cached`, by sample_id.

        Args:
            manifest: labels and splits to use instead of those at build time; samples that it lacks are left out.
        """
        rows: pl.DataFrame | None = None
        for level in self.tokens.levels:  # a sample counts when all layers have it
            found = self.current(level).filter(pl.col("reason").is_null())
            found = found.select("sample_id", "start", pl.col("frames").alias("frames_cached"))
            rows = found if rows is None else rows.join(found, on=found.columns, how="semi")
        described = self.manifest() if manifest is None else manifest
        return described.join(rows, on="sample_id", how="inner").sort("sample_id")

    def rejected(self, manifest: pl.DataFrame | None = None) -> pl.DataFrame:
        """One row a sample that could not be cached: the manifest's columns, `reason` and `detail`, by sample_id."""
        rows = self.current(self.crops).filter(pl.col("reason").is_not_null()).select("sample_id", "reason", "detail")
        described = self.manifest() if manifest is None else manifest
        return described.join(rows, on="sample_id", how="inner").sort("sample_id")
