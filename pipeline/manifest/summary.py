"""Counts of a manifest, for tables and for a first look at what a scan found."""

import polars as pl

from d2st.pipeline.manifest.schema import SCHEMA

__all__ = ["counts"]

GROUP = ("dataset", "split", "label", "method", "kind")


def counts(manifest: pl.DataFrame) -> pl.DataFrame:
    """One row for each data set, split, label, method and kind that occurs: samples, videos, identities, duplicates (all Int64)."""
    return (
        manifest.select(SCHEMA.names())
        .group_by(GROUP)
        .agg(
            samples=pl.len().cast(pl.Int64),
            videos=pl.col("video_id").n_unique().cast(pl.Int64),
            identities=pl.col("identity").explode().n_unique().cast(pl.Int64),
            duplicates=pl.col("duplicate_of").is_not_null().sum().cast(pl.Int64),
        )
        .sort(GROUP)
    )
