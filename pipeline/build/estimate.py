"""What a build will cost, before anything runs: counts and bytes by arithmetic, time by doing a few files for real."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import ManifestError, MediaError
from d2st.cache.plan import plan_shards
from d2st.cache.shard import CRC_BYTES
from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.build.run import planned_samples
from d2st.pipeline.clip import Encoder
from d2st.pipeline.faces import FaceDetector, given_detections
from d2st.pipeline.media import DecodePool, Job

__all__ = ["Estimate", "estimate"]

PROBED_FILES = 6  # of each kind


@dataclass(frozen=True)
class Estimate:
    """The cost of a build from nothing.

    Attributes:
        samples: by kind.
        frames: frames if no media is short or rejected.
        shards: how many shard files each array gets.
        crop_bytes, token_bytes: on the disk.
        crop_seconds, token_seconds: on this machine, from the probed files.
        probed, probed_rejected: how many files were tried, and how many of them could not be used.
    """

    samples: dict[str, int]
    frames: int
    shards: int
    crop_bytes: int
    token_bytes: int
    crop_seconds: float
    token_seconds: float
    probed: int
    probed_rejected: int


def estimate(
    manifest: pl.DataFrame, *, root: Path, detector: FaceDetector, settings: CropSettings, encoder: Encoder, workers: int
) -> Estimate:
    """Predict the cost of building `manifest`. Arguments as for `build`."""
    planned = planned_samples(manifest, settings)
    frames = int(planned["slots"].sum())
    shards = plan_shards(planned)["shard"].n_unique()
    index_bytes = SHARD_FRAMES * 16 + CRC_BYTES
    height, width = encoder.backbone.grid
    values = (height * width + 1) * encoder.backbone.channels * len(encoder.layers)
    decode_s, detect_s, probed, rejected = 0.0, 0.0, 0, 0
    with DecodePool(1) as pool:  # supervised here too: a file may hang or crash a decoder
        for _, group in manifest.filter(pl.col("duplicate_of").is_null()).group_by("kind"):
            picked = group.sort("sample_id").gather_every(max(1, group.height // PROBED_FILES)).head(PROBED_FILES)
            seconds = [_probe(row, root, pool, detector, settings) for row in picked.iter_rows(named=True)]
            probed += len(seconds)
            rejected += sum(not used for _, _, used in seconds)
            # the first one warms caches and kernels up, if there are others to go by
            kept = seconds[1:] or seconds
            decode_s += float(np.mean([decode for decode, _, _ in kept])) * group.height
            detect_s += float(np.mean([detect for _, detect, _ in kept])) * group.height
    return Estimate(
        samples=dict(manifest.group_by("kind").len().sort("kind").rows()),
        frames=frames,
        shards=shards,
        crop_bytes=frames * (settings.size**2 * 3 + CRC_BYTES) + shards * index_bytes,
        token_bytes=frames * (values * 2 + 2 * len(encoder.layers) * CRC_BYTES)
        + shards * 2 * len(encoder.layers) * index_bytes,
        crop_seconds=max(decode_s / workers, detect_s) if encoder.backbone.device != "cpu" else decode_s / workers + detect_s,
        token_seconds=_encode_seconds(encoder, settings.size) * frames,
        probed=probed,
        probed_rejected=rejected,
    )


def _probe(
    row: dict[str, Any], root: Path, pool: DecodePool, detector: FaceDetector, settings: CropSettings
) -> tuple[float, float, bool]:
    """Seconds to decode one sample, seconds to find and crop its face, and whether it could be used."""
    begin = decoded = perf_counter()
    try:
        path = root / row["path"]
        frames = pool.read(Job(row["sample_id"], str(path), row["kind"], settings.frames, settings.sampling))
        decoded = perf_counter()
        given = given_detections(path, frames.indices, box=row["box"], landmarks=row["landmarks"])
        crop_frames(frames, detector, settings, given)
    except (MediaError, ManifestError):
        return perf_counter() - begin, 0.0, False
    return decoded - begin, perf_counter() - decoded, True


def _encode_seconds(encoder: Encoder, size: int) -> float:
    """Seconds a frame, over two micro-batches after one to warm up."""
    crops = np.random.default_rng(0).integers(0, 256, (encoder.micro_batch, size, size, 3), dtype=np.uint8)
    encoder.encode(crops)
    begin = perf_counter()
    for _ in range(2):
        encoder.encode(crops)
    return (perf_counter() - begin) / (2 * encoder.micro_batch)
