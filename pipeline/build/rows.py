"""The rows of a manifest, shard by shard: a million of them are never Python objects at once."""

from typing import Any

import polars as pl

__all__ = ["Row", "Rows", "frame_files"]

Row = dict[str, Any]


class Rows:
    """The samples of a shard with their manifest rows, one shard at a time.

    Args:
        plan: `cache.plan.PLAN_SCHEMA`, by shard.
        manifest: rows of the manifest; planned samples may have left it.
    """

    def __init__(self, plan: pl.DataFrame, manifest: pl.DataFrame) -> None:
        self._manifest = manifest
        places = manifest.select("sample_id").with_row_index("place")
        self._index = plan.join(places, on="sample_id", how="left", maintain_order="left")
        lengths = plan.group_by("shard", maintain_order=True).len()
        starts = lengths["len"].cum_sum() - lengths["len"]
        self._spans = dict(zip(lengths["shard"], zip(starts, lengths["len"], strict=True), strict=True))

    @property
    def shards(self) -> list[int]:
        """Numbers of the planned shards."""
        return list(self._spans)

    def samples(self, shard: int) -> int:
        """How many samples a shard has."""
        return self._spans[shard][1]

    def slots(self, shard: int) -> int:
        """How many frames a shard may have."""
        return int(self._index.slice(*self._spans[shard])["slots"].sum())

    def of(self, shard: int) -> list[Row]:
        """Plan and manifest columns of each sample of a shard; None in the manifest's columns where it has no such sample."""
        piece = self._index.slice(*self._spans[shard])
        found = self._manifest[piece["place"].drop_nulls()]
        return piece.drop("place").join(found, on="sample_id", how="left", maintain_order="left").to_dicts()


def frame_files(row: Row) -> tuple[str, ...] | None:
    """The files of a frame folder that a manifest's row names; None for all of them. Manifests of old stores have no such column."""
    names = row.get("frame_files")
    return None if names is None else tuple(names)
