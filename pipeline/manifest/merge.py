"""Several data sets in one manifest. Samples keep their ids, so what is cached stays cached; paths count from a folder above all."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from d2st.cache.errors import ManifestError

__all__ = ["common_root", "merge"]


def common_root(roots: Sequence[Path]) -> Path:
    """The nearest folder above all of these. Raises ManifestError where there is none (drives of Windows)."""
    try:
        return Path(os.path.commonpath([root.resolve() for root in roots]))
    except ValueError as error:
        raise ManifestError("the media of these manifests are on different drives", fix="Put them on one") from error


def merge(parts: Sequence[tuple[pl.DataFrame, Path]], *, root: Path) -> pl.DataFrame:
    """The rows of all parts, each with its media folder, as paths below `root`.

    Raises:
        ManifestError: the same sample is in two parts with different rows. Rows that are the same in all but the path are kept once.
    """
    moved = []
    for rows, media in parts:
        prefix = PurePosixPath(os.path.relpath(media.resolve(), root.resolve()))
        if prefix != PurePosixPath("."):
            rows = rows.with_columns(pl.concat_str(pl.lit(f"{prefix}/"), "path").alias("path"))
        moved.append(rows)
    merged = pl.concat(moved).unique(maintain_order=True)
    twice = merged.filter(pl.col("sample_id").is_duplicated()).sort("sample_id")
    if twice.height:
        first = twice.row(0, named=True)
        raise ManifestError(
            f"{twice['sample_id'].n_unique()} samples are in two manifests with different rows, such as {first['path']}",
            fix="Name data sets apart when you scan them (--dataset), or leave one manifest out",
        )
    return merged.sort("sample_id")
