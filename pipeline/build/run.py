"""The whole build: plan, crops, token maps. Everything that can be refused is refused before the first file is decoded."""

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.arrays import ensure_array
from d2st.cache.claims import Claims
from d2st.cache.errors import FingerprintError, ManifestError
from d2st.cache.level import Level, ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.statistics import refresh_all_statistics
from d2st.cache.store import Store
from d2st.pipeline.build.calibrate import calibrate_first
from d2st.pipeline.build.crop import CropSettings, declared_crops
from d2st.pipeline.build.crops import LEFT, Media
from d2st.pipeline.build.progress import OnProgress, Progress
from d2st.pipeline.build.report import BuildReport, make_report, outcomes
from d2st.pipeline.build.rows import Rows
from d2st.pipeline.build.stages import make_shards
from d2st.pipeline.build.threads import crop_threads
from d2st.pipeline.build.tokens import ensure_token_arrays
from d2st.pipeline.build.use import Run
from d2st.pipeline.build.work import Work, own_shards, stale_tokens
from d2st.pipeline.clip import Encoder
from d2st.pipeline.faces import FaceDetector
from d2st.pipeline.media import default_workers

__all__ = ["BuildReport", "build", "declared_tokens", "planned_samples"]


def planned_samples(manifest: pl.DataFrame, settings: CropSettings) -> pl.DataFrame:
    """What `cache.plan` wants to know: how many frames each sample may take."""
    slots = pl.when(pl.col("duplicate_of").is_not_null()).then(0).when(pl.col("kind") == "image").then(1)
    return manifest.select("sample_id", slots.otherwise(settings.frames).cast(pl.Int32).alias("slots"))


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
    part: tuple[int, int] | None = None,
    retry: bool = False,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> BuildReport:
    """Bring the store at `store_path` up to date with `manifest`; goes on where an earlier build was stopped.

    Several builds of one store, on one machine or many, share its shards; each ends when all shards are there.

    Args:
        manifest: `pipeline.manifest` rows, paths relative to `root`.
        workers: decoding processes; one a core by default.
        part: (i, n) makes the i-th of n equal parts of the shards (i from 1) and waits for nobody.
        retry: try the samples again that were left out (for any reason but being a copy): files come back, and get mended. They get
            places in new shards; what is cached stays as it is.
        on_progress: called with (phase, done, total), first with done = 0; phase "crops" counts samples, "tokens" counts frames.
            Called from the build's threads, one call at a time.

    Raises:
        ManifestError: there is nothing to build.
        FingerprintError: the store was built with other settings.
        StoreError: the store is damaged or of an old format, a gc or repair is at work, or the disk is full; what was finished stays.
    """
    if manifest.is_empty():
        raise ManifestError("the manifest has no rows", fix="Scan a folder that holds media: d2st manifest scan ROOT")
    store = Store.ensure(store_path)
    with Claims(store_path / "claims", purpose="build") as claims:
        crops, tokens = _levels(store_path, settings, detector, encoder)
        store.write_manifest(manifest)
        again = _leave_their_place(store, crops, manifest, root=root, retry=retry)
        plan = extend_plan(store_path / "plan", planned_samples(manifest, settings), again=again)
        rows = Rows(plan, manifest)
        counted = set(manifest.filter(pl.col("split") == "train")["sample_id"])
        media = Media(
            root=root,
            detector=detector,
            settings=settings,
            workers=workers or default_workers(),
            threads=crop_threads(encoder.backbone.device),
            device=encoder.backbone.device,
        )
        last = max(rows.shards) + 1
        ensure_array(
            crops.array("frames"), frame_shape=(settings.size, settings.size, 3), dtype="uint8", shards=last, attributes={}
        )
        ensure_token_arrays(tokens, encoder, shards=last)
        work = Work(
            own_shards(rows.shards, part),
            crops=crops,
            tokens=tokens,
            stale=stale_tokens(crops, tokens),
            claims=claims,
            name=tokens.name,
            on_elsewhere=lambda shard: progress.elsewhere(shard),
        )
        progress = _progress(work, rows, on_progress)
        run = Run(media.workers, media.threads, media.device)
        make = partial(make_shards, rows=rows, media=media, counted=counted, clocks=run.clocks, progress=progress)

        def make_crops(shards: list[int]) -> int:
            first = Work(shards, crops=crops, tokens=None, claims=claims, name=tokens.name)
            return make(first, encoder=None, wait=True)[0] if first.waiting else 0

        with run.used.running():
            early = 0
            if work.waiting:
                early = calibrate_first(tokens, encoder, crops, shards=rows.shards, counted=counted, make_crops=make_crops)
            built = make(work, encoder=encoder, wait=part is None)
        statistics = refresh_all_statistics(store, counted)
    return make_report(crops, tokens, plan, manifest, built=(built[0] + early, built[1]), statistics=statistics, run=run)


def _levels(store: Path, settings: CropSettings, detector: FaceDetector, encoder: Encoder) -> tuple[Level, Level]:
    fix = "Use the same options as before, or another --cache folder"
    try:
        crops = ensure_level(store, "crops", declared_crops(settings, detector))
        fix += (
            "; or put other token maps beside these, from the same crops: "
            f"d2st cache encode {store} --as NAME (d2st cache add-layers {store} where only the layers differ)"
        )
        notes = {"pretrained": encoder.backbone.pretrained}
        return crops, ensure_level(store, "tokens", declared_tokens(encoder, settings, detector), notes)
    except FingerprintError as error:
        raise FingerprintError(error.message, fields=error.fields, fix=fix) from error


def _leave_their_place(store: Store, crops: Level, manifest: pl.DataFrame, *, root: Path, retry: bool) -> dict[str, int]:
    """Samples that were left out and are to be tried again, and the shard in which they were.

    Without asking those that their shard was made without: they were not in the manifest then, or copies, or a gc had dropped them that
    was stopped before it came to the plan. With `retry` all but copies; of those that were missing, the ones that are there now.
    """
    made = pl.DataFrame({"shard": sorted(crops.committed())}, schema={"shard": pl.Int32})
    plan = store.plan()
    placed = plan.join(manifest.select("sample_id", "path", "duplicate_of"), on="sample_id").join(made, on="shard", how="semi")
    found = placed.join(outcomes(crops, plan, manifest).drop("planned"), on="sample_id", how="left")
    columns = found.select("sample_id", "shard", "path", "duplicate_of", "frames", "reason", "detail")
    return {
        sample: shard
        for sample, shard, path, original, frames, reason, detail in columns.iter_rows()
        if frames is None
        or detail == LEFT
        or (reason == "duplicate" and original is None)
        or (retry and reason not in (None, "duplicate") and (reason != "missing" or (root / path).exists()))
    }


def _progress(work: Work, rows: Rows, on_progress: OnProgress) -> Progress:
    lacking = {shard: work.lacks(shard) for shard in work.waiting}
    return Progress(
        on_progress,
        samples={shard: rows.samples(shard) for shard, (no_crops, _) in lacking.items() if no_crops},
        frames={shard: rows.slots(shard) for shard in lacking},
    )
