"""First phase of a build: media to face crops, shard by shard.

Children decode ahead of the detector; shards are committed in their order, so a killed build goes on at the first one that is missing.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.errors import ManifestError, MediaError
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import Level
from d2st.cache.shard import ShardWriter
from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.faces import FaceDetector, given_detections
from d2st.pipeline.media import DecodePool, Frames, Job

__all__ = ["build_crops"]

Row = dict[str, Any]


def build_crops(
    level: Level,
    plan: pl.DataFrame,
    manifest: pl.DataFrame,
    *,
    root: Path,
    detector: FaceDetector,
    settings: CropSettings,
    workers: int | None,
    on_sample: Callable[[str | None, int], None],
) -> int:
    """Compute and commit every shard of the plan that the level lacks.

    Args:
        level: the crops level.
        plan: `cache.plan.PLAN_SCHEMA`.
        manifest: its rows; all planned samples that are to be built must be in it.
        root: the folder that the manifest's paths are relative to.
        workers: decoding processes; one a core by default.
        on_sample: called with (reason code or None, frames cached) after each sample.

    Returns:
        How many shards were built.
    """
    shards = sorted(set(plan["shard"].unique()) - level.committed())
    if not shards:
        return 0
    ensure_array(
        level.path / "frames",
        frame_shape=(settings.size, settings.size, 3),
        dtype="uint8",
        shards=int(plan["shard"].max()) + 1,  # type: ignore[arg-type]
        attributes={},
    )
    work = plan.filter(pl.col("shard").is_in(shards)).join(manifest, on="sample_id", how="left", maintain_order="left")
    rows = work.to_dicts()
    with DecodePool(workers) as pool:
        decoded = pool.map(_jobs(rows, root, settings))
        for _, group in work.group_by("shard", maintain_order=True):
            _build_shard(level, group.to_dicts(), decoded, root, detector, settings, on_sample)
    return len(shards)


def _jobs(rows: list[Row], root: Path, settings: CropSettings) -> Iterator[Job]:
    for row in rows:
        if _skip(row) is None:
            yield Job(row["sample_id"], str(root / row["path"]), row["kind"], settings.frames, settings.sampling)


def _skip(row: Row) -> tuple[str, str] | None:
    """Reason and detail for rows that need no decoding."""
    if row["path"] is None:  # planned by an earlier build, and gone from the manifest before its shard was built
        return "missing", "no longer in the manifest"
    if row["duplicate_of"] is not None:
        return "duplicate", f"the same bytes as sample {row['duplicate_of']}"
    if row["slots"] == 0:  # it was a copy when its place was planned
        return "duplicate", "a copy of another file when this store was planned; a new store would take it"
    return None


def _build_shard(
    level: Level,
    rows: list[Row],
    decoded: Iterator[tuple[Job, Frames | MediaError]],
    root: Path,
    detector: FaceDetector,
    settings: CropSettings,
    on_sample: Callable[[str | None, int], None],
) -> None:
    shard = rows[0]["shard"]
    start = shard * SHARD_FRAMES
    ledger: list[Row] = []
    crops: list[np.ndarray] = []
    for row in rows:
        images, entry = _sample(row, decoded, root, detector, settings)
        ledger.append({**entry, "start": start if len(images) else None, "frames": len(images), "planned": row["slots"]})
        crops.append(images)
        start += len(images)
        on_sample(entry["reason"], len(images))
    writers: dict[str, ShardWriter] = {}
    if any(len(images) for images in crops):
        with ShardWriter(level.shard_file("frames", shard, frame_dims=3), slots=SHARD_FRAMES) as writers["frames"]:
            for images in crops:
                writers["frames"].append(images)
    level.commit(shard, pl.DataFrame(ledger, schema=LEDGER_SCHEMA), writers, {})


def _sample(
    row: Row, decoded: Iterator[tuple[Job, Frames | MediaError]], root: Path, detector: FaceDetector, settings: CropSettings
) -> tuple[np.ndarray, Row]:
    """The crops (T',S,S,3) of one sample, T' = 0 when it is rejected, and its ledger row."""
    rejected = _skip(row)
    try:
        if rejected is None:
            job, frames = next(decoded)
            if job.key != row["sample_id"]:
                raise RuntimeError(f"the decoder answered for {job.key}, {row['sample_id']} was asked for")
            if isinstance(frames, MediaError):
                raise frames
            given = given_detections(Path(job.path), frames.indices, box=row["box"], landmarks=row["landmarks"])
            images, info = crop_frames(frames, detector, settings, given)
            text = json.dumps(info, sort_keys=True, separators=(",", ":"), allow_nan=False)
            return images, {"sample_id": row["sample_id"], "reason": None, "detail": "", "info": text}
    except (MediaError, ManifestError) as error:
        reason = error.reason if isinstance(error, MediaError) else "bad_faces"
        # stores move: only the path below the media root is kept
        rejected = reason, str(error).replace(str(root / row["path"]), row["path"]).replace(f"{root}/", "")
    reason, detail = rejected
    empty = np.empty((0, settings.size, settings.size, 3), np.uint8)
    return empty, {"sample_id": row["sample_id"], "reason": reason, "detail": detail[:500], "info": "{}"}
