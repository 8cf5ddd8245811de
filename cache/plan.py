"""Which sample lies in which shard: a pure function of the samples, kept in the store so that new samples append and old shards never move.

Samples are taken in the order of their ids, which are hashes: images and videos, labels and data sets mix evenly, so shards cost alike.
"""

from pathlib import Path

import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.ledger import parquet_bytes

__all__ = ["PLAN_SCHEMA", "extend_plan", "plan_shards", "read_plan", "recount"]

# slots: frames that the sample may take; counted: its frames enter the channel statistics (training split)
PLAN_SCHEMA = pl.Schema({"sample_id": pl.String, "shard": pl.Int32, "slots": pl.Int32, "counted": pl.Boolean})


def plan_shards(samples: pl.DataFrame, *, first_shard: int = 0) -> pl.DataFrame:
    """Lay samples into consecutive shards of `SHARD_FRAMES` frames; none straddles two.

    Args:
        samples: columns sample_id, slots (0 <= slots <= SHARD_FRAMES), counted.
        first_shard: number of the first shard to fill.

    Returns:
        A frame of `PLAN_SCHEMA`, ordered by shard, then by sample_id.
    """
    shards, shard, used = [], first_shard, 0
    samples = samples.sort("sample_id")
    for slots in samples["slots"]:
        if used + slots > SHARD_FRAMES:
            shard, used = shard + 1, 0
        shards.append(shard)
        used += slots
    return samples.select("sample_id", pl.Series("shard", shards, dtype=pl.Int32), "slots", "counted").cast(dict(PLAN_SCHEMA))


def read_plan(folder: Path) -> pl.DataFrame:
    """Every part of the plan under `folder`, oldest first; empty when there is none."""
    parts = sorted(folder.glob("*.parquet"))
    try:
        return pl.concat([PLAN_SCHEMA.to_frame(), *(pl.read_parquet(part).match_to_schema(PLAN_SCHEMA) for part in parts)])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(
            f"the plan in {folder} is damaged: {str(error)[:200]}", fix="Restore it, or build the store anew"
        ) from error


def recount(folder: Path, samples: pl.DataFrame) -> set[int]:
    """Bring `counted` of all planned samples up to date with `samples`; returns the shards whose statistics that changes.

    Splits change after a build; a frame that moved to the test split must leave the channel statistics.
    """
    changed: set[int] = set()
    for path in sorted(folder.glob("*.parquet")):
        part = pl.read_parquet(path)
        now = part.join(samples.select("sample_id", now="counted"), on="sample_id", how="left", maintain_order="left")
        now = now.with_columns(now=pl.col("now").fill_null(pl.col("counted")))
        differs = now.filter(pl.col("now") != pl.col("counted"))
        if differs.height:
            changed |= set(differs["shard"])
            write_atomic(
                path, parquet_bytes(now.select("sample_id", "shard", "slots", counted="now").match_to_schema(PLAN_SCHEMA))
            )
    return changed


def extend_plan(folder: Path, samples: pl.DataFrame) -> pl.DataFrame:
    """Plan the samples that no part of the plan holds yet, store them as a new part, and return the whole plan.

    Samples that are planned already keep their place, whatever else changed; their shards stay byte for byte as they are.
    """
    plan = read_plan(folder)
    new = samples.join(plan, on="sample_id", how="anti")
    if new.is_empty():
        return plan
    first = 0 if plan.is_empty() else int(plan["shard"].max()) + 1  # type: ignore[arg-type]
    part = plan_shards(new, first_shard=first)
    number = len(list(folder.glob("*.parquet")))
    write_atomic(folder / f"{number:05d}.parquet", parquet_bytes(part))
    return pl.concat([plan, part])
