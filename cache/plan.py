"""Which sample lies in which shard: a pure function of the samples, kept in the store so that new samples append and old shards never move.

Samples are taken in the order of their ids, which are hashes: images and videos, labels and data sets mix evenly, so shards cost alike.
A part of the plan is never changed; the last part that names a sample says where it lies, so a sample that is to be tried again gets a
place in a new shard, and what is committed stays as it is. Parts are created exclusively: builders that extend the plan at once do not lose
each other's samples.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import StoreError
from d2st.cache.files import create_exclusive
from d2st.cache.ledger import read_sealed, sealed_parquet

__all__ = ["PLAN_SCHEMA", "extend_plan", "plan_part_bytes", "plan_parts", "plan_shards", "read_plan", "read_plan_part"]

PLAN_SCHEMA = pl.Schema(
    {"sample_id": pl.String, "shard": pl.Int32, "slots": pl.Int32}
)  # slots: frames that the sample may take
_NEXT = "d2st.next_shard"


def plan_shards(samples: pl.DataFrame, *, first_shard: int = 0) -> pl.DataFrame:
    """Lay samples into consecutive shards of `SHARD_FRAMES` frames; none straddles two.

    Args:
        samples: columns sample_id, slots (0 <= slots <= SHARD_FRAMES).
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
    return samples.select("sample_id", pl.Series("shard", shards, dtype=pl.Int32), "slots").cast(dict(PLAN_SCHEMA))


def plan_parts(folder: Path) -> list[Path]:
    """The parts of the plan, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*.parquet") if path.stem.isdecimal())


def read_plan_part(path: Path, *, sealed: bool = True) -> tuple[pl.DataFrame, int]:
    """One part (`PLAN_SCHEMA`), and the first shard number that no part up to this one has used. Raises StoreError when it is damaged."""
    frame, metadata = read_sealed(path, sealed=sealed)
    try:
        frame = frame.select(PLAN_SCHEMA.names()).match_to_schema(PLAN_SCHEMA)
        used = int(frame["shard"].max()) + 1 if frame.height else 0  # type: ignore[arg-type]
        return frame, max(used, int(metadata.get(_NEXT, 0)))
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise StoreError(
            f"{path} is no part of a plan: {str(error)[:200]}", fix="Run `d2st cache repair` on the store"
        ) from error


def plan_part_bytes(part: pl.DataFrame, *, next_shard: int) -> bytes:
    """The file of one part; `next_shard` outlives the rows, so that no shard number is used twice."""
    return sealed_parquet(part.match_to_schema(PLAN_SCHEMA), {_NEXT: str(next_shard)})


def read_plan(folder: Path, *, sealed: bool = True) -> pl.DataFrame:
    """Where each sample lies: `PLAN_SCHEMA`, one row a sample, by shard and in the order of their places there.

    Raises:
        StoreError: a part is damaged.
    """
    return _read(plan_parts(folder), sealed=sealed)[0]


def _read(parts: Sequence[Path], *, sealed: bool) -> tuple[pl.DataFrame, int]:
    found = [read_plan_part(path, sealed=sealed) for path in parts]
    plan = pl.concat([PLAN_SCHEMA.to_frame(), *(part for part, _ in found)])
    plan = plan.unique("sample_id", keep="last", maintain_order=True).sort("shard", maintain_order=True)
    return plan, max((following for _, following in found), default=0)


def extend_plan(
    folder: Path, samples: pl.DataFrame, *, again: Mapping[str, int] | None = None, sealed: bool = True
) -> pl.DataFrame:
    """Plan the samples that have no place yet, as a new part, and return the whole plan as `read_plan` does.

    Samples that are planned already keep their place, whatever else changed; their shards stay byte for byte as they are.

    Args:
        samples: columns sample_id, slots. One that was planned with no slots, as a copy, and has some now gets a new place.
        again: ids that get a new place though they have one, and the shard of the one that they leave: of two builders that
            want it at once, the second finds the sample elsewhere already.
    """
    left = pl.DataFrame(list((again or {}).items()), schema={"sample_id": pl.String, "shard": pl.Int32}, orient="row")
    while True:
        parts = plan_parts(folder)
        plan, next_shard = _read(parts, sealed=sealed)
        placed = plan.join(left, on=["sample_id", "shard"], how="anti")
        empty = placed.filter(pl.col("slots") == 0).join(samples.filter(pl.col("slots") > 0), on="sample_id", how="semi")
        new = samples.join(placed.join(empty, on="sample_id", how="anti"), on="sample_id", how="anti")
        if new.is_empty():
            return plan
        part = plan_shards(new, first_shard=next_shard)
        data = plan_part_bytes(part, next_shard=int(part["shard"].max()) + 1)  # type: ignore[arg-type]
        number = int(parts[-1].stem) + 1 if parts else 0
        if create_exclusive(folder / f"{number:05d}.parquet", data):
            return _read([*parts, folder / f"{number:05d}.parquet"], sealed=sealed)[0]
