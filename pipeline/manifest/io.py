"""Manifests on disk: Parquet with the media root beside the rows.

The root is stored relative to the manifest's own folder, so that a folder with manifest and media moves as one. Rows are
sorted by sample_id and no time or host is written: the same rows give the same bytes.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl

from d2st.cache.errors import ManifestError
from d2st.cache.files import atomic_file
from d2st.pipeline.manifest.check import Finding, check_rows
from d2st.pipeline.manifest.schema import SCHEMA

__all__ = ["load_manifest", "manifest_root", "read_manifest", "write_manifest"]

ROOT_KEY = "root"
ADDED = ("frame_files",)  # columns that older manifests lack
T = TypeVar("T")
ROW_GROUP = 1 << 18  # rows; fixed, since Polars' default may change and the bytes with it


def read_manifest(path: str | Path) -> pl.DataFrame:
    """The rows of a manifest, in SCHEMA, checked by `check_rows`.

    Leaks between splits are left to `check_manifest`.

    Raises:
        ManifestError: no such file, not Parquet, other columns, or rows that make no sense.
    """
    manifest = load_manifest(path)
    _refuse(check_rows(manifest), str(path))
    return manifest


def load_manifest(path: str | Path) -> pl.DataFrame:
    """The rows in SCHEMA, whatever they say: for `d2st manifest check`, which reports on them. Raises ManifestError."""
    return _in_schema(_parquet(Path(path), partial(pl.read_parquet, glob=False)), str(path))


def write_manifest(manifest: pl.DataFrame, path: str | Path, *, root: str | Path) -> None:
    """Write rows of SCHEMA, sorted by sample_id, all or nothing; the same rows and root give the same bytes.

    Raises ManifestError for rows that `read_manifest` would refuse, and StoreError where the file can't be written.
    """
    path = Path(path)
    manifest = _in_schema(manifest, "the manifest to write")
    _refuse(check_rows(manifest), "the manifest to write")
    rows = manifest.sort("sample_id").rechunk()
    with atomic_file(path) as file:
        rows.write_parquet(file, row_group_size=ROW_GROUP, metadata={ROOT_KEY: _relative(Path(root), path)})


def manifest_root(path: str | Path, override: str | Path | None = None) -> Path:
    """The absolute folder that the manifest's paths start from; `override` wins over what the manifest says.

    Raises ManifestError where that is no folder.
    """
    path = Path(path)
    if override is not None:
        root = Path(override)
    else:
        stored = _parquet(path, pl.read_parquet_metadata).get(ROOT_KEY)
        if stored is None:
            raise ManifestError(f"{path} does not say where its media are", fix="Name the folder with --root")
        root = path.resolve().parent / stored
    if not root.is_dir():
        raise ManifestError(
            f"the media folder {root} does not exist", fix="Name the folder that the paths start from with --root"
        )
    return root.resolve()


def _parquet(path: Path, read: Callable[[Path], T]) -> T:
    if path.is_dir():
        raise ManifestError(f"{path} is a folder and no manifest", fix="Name the Parquet file that d2st manifest scan wrote")
    if not path.is_file():
        raise ManifestError(f"there is no manifest {path}", fix=f"Make one: d2st manifest scan ROOT --out {path}")
    try:
        return read(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ManifestError(f"{path} can't be read as Parquet: {error}", fix="Make it again: d2st manifest scan") from error


def _relative(root: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(root.resolve(), path.resolve().parent)).as_posix()
    except ValueError as error:  # Windows: no way from one drive to another
        raise ManifestError(
            f"{path} and its media {root} are on different drives", fix="Write the manifest beside its media"
        ) from error


def _in_schema(manifest: pl.DataFrame, what: str) -> pl.DataFrame:
    later = [pl.lit(None, SCHEMA[name]).alias(name) for name in ADDED if name not in manifest.columns]
    manifest = manifest.with_columns(later)
    missing = [name for name in SCHEMA if name not in manifest.columns]
    extra = [name for name in manifest.columns if name not in SCHEMA]
    if missing or extra:
        parts = [
            f"{word} columns {', '.join(names)}" for word, names in (("lacks the", missing), ("has the extra", extra)) if names
        ]
        raise ManifestError(
            f"{what} {' and '.join(parts)}", fix="Columns are those of d2st.pipeline.manifest.SCHEMA, no more and no less"
        )
    # a column of nulls has no type of its own: Polars loses it in some operations (reverse, concat)
    untyped = [name for name, dtype in manifest.schema.items() if dtype in (pl.Null, pl.List(pl.Null))]
    manifest = manifest.with_columns(pl.col(name).cast(SCHEMA[name]) for name in untyped)
    wrong = [
        f"{name} is {manifest.schema[name]}, not {dtype}" for name, dtype in SCHEMA.items() if manifest.schema[name] != dtype
    ]
    if wrong:
        raise ManifestError(
            f"{what} has columns of other types: {'; '.join(wrong)}", fix="Cast them with d2st.pipeline.manifest.SCHEMA"
        )
    return manifest.select(SCHEMA.names())


def _refuse(findings: Sequence[Finding], what: str) -> None:
    if findings:
        first = findings[0]
        shown = f" (such as {', '.join(first.examples)})" if first.examples else ""
        raise ManifestError(f"{what}: {first.count} {first.message}{shown}", fix=first.fix)
