"""A part of a split that still measures all of it: for what is too slow to be done with every sample."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from d2st.adapter.evaluate.groups import with_two_kinds

__all__ = ["balanced_subset"]


def balanced_subset(chosen: Sequence[pl.DataFrame], count: int, *, seed: int = 0) -> list[pl.DataFrame]:
    """At most `count` samples of several tables, chosen by `seed`; each table with the columns and the order that it had.

    As many real as fake ones and as many images as videos as there can be, and of as many different `video_id` as there can be: no
    second sample of a video before each other video of its kind and label has one.

    Args:
        chosen: manifest columns, one table a store.
    """
    columns = [pl.col("sample_id", "label", "video_id"), pl.col("kind").cast(pl.String)]
    table = with_two_kinds(pl.concat([samples.select(columns) for samples in chosen])).sort("sample_id")
    rng = np.random.default_rng(seed)
    table = table.with_columns(luck=pl.Series(rng.random(len(table)), dtype=pl.Float64))
    table = table.with_columns(turn=pl.col("luck").rank("ordinal").over("video_id", "kind"))  # of the samples of a video
    table = table.sort("turn", "luck").with_columns(place=pl.int_range(pl.len()).over("kind", "label"))
    taken = table.sort("place", "label", "kind").head(count)["sample_id"]
    return [samples.filter(pl.col("sample_id").is_in(taken.to_list())) for samples in chosen]
