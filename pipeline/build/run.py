"""The whole build: plan, crops, token maps. Everything that can be refused is refused before the first file is decoded."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl

from d2st.cache.errors import ManifestError
from d2st.cache.files import write_atomic
from d2st.cache.ledger import parquet_bytes
from d2st.cache.level import Level, ensure_level
from d2st.cache.plan import extend_plan, recount
from d2st.cache.store import Store, locked_for_building
from d2st.pipeline.build.crop import CropSettings, declared_crops
from d2st.pipeline.build.crops import build_crops
from d2st.pipeline.build.tokens import build_tokens
from d2st.pipeline.clip import Encoder
from d2st.pipeline.faces import FaceDetector

__all__ = ["BuildReport", "build", "declared_tokens", "planned_samples"]

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildReport:
    """What a store holds after a build, and what this build did.

    Attributes:
        samples, frames: cached ones, of this manifest.
        padded: videos with fewer frames than asked for.
        rejected: samples left out, by reason code.
        built_crops, built_tokens: shards that this build computed; the rest was there already.
        seconds: wall time by phase.
    """

    samples: int
    frames: int
    padded: int
    rejected: dict[str, int]
    built_crops: int
    built_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)


def planned_samples(manifest: pl.DataFrame, settings: CropSettings) -> pl.DataFrame:
    """What `cache.plan` wants to know: how many frames each sample may take, and whether it counts for the channel statistics."""
    slots = pl.when(pl.col("duplicate_of").is_not_null()).then(0).when(pl.col("kind") == "image").then(1)
    return manifest.select(
        "sample_id",
        slots.otherwise(settings.frames).cast(pl.Int32).alias("slots"),
        (pl.col("split") == "train").alias("counted"),
    )


def declared_tokens(encoder: Encoder, settings: CropSettings, detector: FaceDetector) -> dict[str, Any]:
    """The config of the tokens level: the encoder's declared values, and those of the crops that it read."""
    return {**encoder.declared(), "crops": declared_crops(settings, detector)}


def build(
    manifest: pl.DataFrame,
    store_path: Path,
    *,
    root: Path,
    detector: FaceDetector,
    settings: CropSettings,
    encoder: Encoder,
    workers: int | None = None,
    retry: bool = False,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> BuildReport:
    """Bring the store at `store_path` up to date with `manifest`; goes on where an earlier build was stopped.

    Args:
        manifest: `pipeline.manifest` rows, paths relative to `root`.
        workers: decoding processes; one a core by default.
        retry: build the shards anew in which a sample was left out (for any reason but being a copy): files come back, and get mended.
        on_progress: called with (phase, done, total), first with done = 0; phase "crops" counts samples, "tokens" counts frames.

    Raises:
        ManifestError: there is nothing to build.
        FingerprintError: the store was built with other settings.
        StoreError: the store is busy or damaged, or the disk is full; what was finished stays.
    """
    if manifest.is_empty():
        raise ManifestError("the manifest has no rows", fix="Scan a folder that holds media: d2st manifest scan ROOT")
    store = Store.ensure(store_path)
    with locked_for_building(store_path):
        crops = ensure_level(store_path, "crops", declared_crops(settings, detector))
        notes = {"pretrained": encoder.backbone.pretrained}
        tokens = ensure_level(store_path, "tokens", declared_tokens(encoder, settings, detector), notes)
        write_atomic(store_path / "manifest.parquet", parquet_bytes(manifest))
        planned = planned_samples(manifest, settings)
        for shard in sorted(recount(store_path / "plan", planned)):
            tokens.withdraw(shard)  # encoded again, since statistics of the training split are gathered on the way
        plan = extend_plan(store_path / "plan", planned)
        if retry:
            _withdraw_rejected(crops, tokens, plan, manifest, root)
        seconds = {}

        begin = perf_counter()
        missing = plan.filter(~pl.col("shard").is_in(list(crops.committed()))).height
        done = Counter[str]()
        on_progress("crops", 0, missing)

        def on_sample(reason: str | None, frames: int) -> None:
            done["samples"] += 1
            on_progress("crops", done["samples"], missing)

        built_crops = build_crops(
            crops, plan, manifest, root=root, detector=detector, settings=settings, workers=workers, on_sample=on_sample
        )
        seconds["crops"] = perf_counter() - begin

        begin = perf_counter()
        waiting = (
            crops.rows().join(plan, on="sample_id").filter(~pl.col("shard").is_in(list(tokens.committed())))["frames"].sum()
        )

        on_progress("tokens", 0, waiting)

        def on_frames(count: int) -> None:
            done["frames"] += count
            on_progress("tokens", done["frames"], waiting)

        built_tokens = build_tokens(crops, tokens, plan, encoder=encoder, on_frames=on_frames)
        seconds["tokens"] = perf_counter() - begin
    return _report(store, manifest, built_crops, built_tokens, seconds)


def _withdraw_rejected(crops: Level, tokens: Level, plan: pl.DataFrame, manifest: pl.DataFrame, root: Path) -> None:
    """Withdraw the shards with rejected samples of this manifest; one whose cached samples can't all be made again is left as it is."""
    rows = crops.rows().join(plan.select("sample_id", "shard"), on="sample_id")
    rows = rows.join(manifest.select("sample_id", "path"), on="sample_id", how="left")
    again = rows.filter(pl.col("reason").is_not_null() & (pl.col("reason") != "duplicate") & pl.col("path").is_not_null())
    for shard in again["shard"].unique().sort():
        cached = rows.filter((pl.col("shard") == shard) & pl.col("reason").is_null())["path"]
        if all(path is not None and (root / path).exists() for path in cached):
            tokens.withdraw(shard)  # first: token maps must never point at crops that are newer than they are
            crops.withdraw(shard)


def _report(
    store: Store, manifest: pl.DataFrame, built_crops: int, built_tokens: int, seconds: dict[str, float]
) -> BuildReport:
    rows = store.crops.rows().join(manifest.select("sample_id"), on="sample_id", how="semi")
    cached = rows.filter(pl.col("reason").is_null())
    reasons = rows.filter(pl.col("reason").is_not_null())["reason"].value_counts(sort=True, name="count")
    return BuildReport(
        samples=cached.height,
        frames=int(cached["frames"].sum()),
        padded=cached.filter(pl.col("frames") < pl.col("planned")).height,
        rejected=dict(reasons.rows()),
        built_crops=built_crops,
        built_tokens=built_tokens,
        seconds=seconds,
    )
