"""What a store holds after a build, and what this build did."""

from dataclasses import dataclass, field

import polars as pl

from d2st.cache.level import Level
from d2st.pipeline.build.use import Run, StageUse, advice

__all__ = ["BuildReport", "make_report", "outcomes"]


@dataclass(frozen=True)
class BuildReport:
    """What a store holds after a build, and what this build did.

    Attributes:
        samples, frames: cached ones, of this manifest.
        padded: videos with fewer frames than asked for.
        rejected: samples left out, by reason code.
        built_crops, built_tokens: shards that this build made; the rest was there already, or others made it.
        shards, planned_shards: how many have their token maps, of how many.
        statistics: shards whose channel statistics were brought up to date because splits had changed.
        clamped: values of the token maps made now that lay beyond float16's range and were set to its limit.
        seconds: wall time of making shards.
        stages: what the stages of the build took; empty when there was nothing to make.
        advice: one sentence on what would make the next build faster, or "".
    """

    samples: int
    frames: int
    padded: int
    rejected: dict[str, int]
    built_crops: int
    built_tokens: int
    shards: int
    planned_shards: int
    statistics: int
    seconds: float
    stages: list[StageUse] = field(default_factory=list)
    advice: str = ""
    clamped: int = 0


def make_report(
    crops: Level,
    tokens: Level,
    plan: pl.DataFrame,
    manifest: pl.DataFrame,
    *,
    built: tuple[int, int],
    statistics: int,
    run: Run,
) -> BuildReport:
    """Look at what the store holds now, and put it beside what this build did."""
    rows = outcomes(crops, plan, manifest)
    cached = rows.filter(pl.col("reason").is_null())
    reasons = rows.filter(pl.col("reason").is_not_null())["reason"].value_counts(sort=True, name="count")
    stages = run.stages()
    return BuildReport(
        samples=cached.height,
        frames=int(cached["frames"].sum()),
        padded=cached.filter(pl.col("frames") < pl.col("planned")).height,
        rejected=dict(reasons.rows()),
        built_crops=built[0],
        built_tokens=built[1],
        shards=len(tokens.committed() & set(plan["shard"])),
        planned_shards=plan["shard"].n_unique(),
        statistics=statistics,
        seconds=run.clocks.wall_s,
        stages=stages,
        advice=advice(stages, device=run.device),
        clamped=run.clocks.clamped,
    )


def outcomes(crops: Level, plan: pl.DataFrame, manifest: pl.DataFrame) -> pl.DataFrame:
    """What became of each sample of the manifest: sample_id, frames, planned, reason, detail; read shard by shard."""
    columns = ["sample_id", "frames", "planned", "reason", "detail"]
    empty = pl.DataFrame(
        schema={"shard": pl.Int32, **dict.fromkeys(columns, pl.String), "frames": pl.Int32, "planned": pl.Int32}
    )
    parts = [part.rows.select(pl.lit(part.shard, pl.Int32).alias("shard"), *columns) for part in crops.parts()]
    rows = pl.concat([empty.select("shard", *columns), *parts])
    rows = rows.join(plan.select("sample_id", "shard"), on=["sample_id", "shard"], how="semi")
    return rows.join(manifest.select("sample_id"), on="sample_id", how="semi").drop("shard")
