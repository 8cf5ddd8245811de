"""What a build will cost, before anything runs: bytes from the file format, counts and times from files that are done for real.

The time is that of the overlapping stages. On a CPU they share the cores, so their processor time adds up; beside a GPU the slowest one
sets the pace.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.codec import stored_arrays
from d2st.cache.errors import StoreError
from d2st.cache.moments import Moments
from d2st.cache.plan import plan_shards
from d2st.cache.shard import CRC_BYTES, ShardWriter
from d2st.cache.statistics import add_to_moments
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.crops import Media
from d2st.pipeline.build.probe import Probe, probe_media
from d2st.pipeline.build.run import planned_samples
from d2st.pipeline.build.threads import crop_threads, encode_threads, take_threads
from d2st.pipeline.clip import Encoder
from d2st.pipeline.clip.taps import steady_arithmetic
from d2st.pipeline.faces import FaceDetector
from d2st.pipeline.media import default_workers

__all__ = ["Estimate", "estimate"]

INDEX_BYTES = SHARD_FRAMES * 16 + CRC_BYTES
CROP_ROW_BYTES, TOKEN_ROW_BYTES, PART_BYTES = 110, 45, 4500  # of ledger parts: a sample, and a part without any
ENCODE_S = 4.0
WRITE_BYTES = 64 << 20


@dataclass(frozen=True)
class Estimate:
    """The cost of a build from nothing.

    Attributes:
        samples: by kind.
        slots: frames if no media is short or rejected; `frames` as the probed files let expect.
        shards: how many shard files each array gets.
        crop_bytes, token_bytes: on the disk.
        seconds: of the whole build on this machine.
        stages: seconds that each stage would take alone.
        probed, probed_rejected: how many files were tried, and how many of them could not be used.
    """

    samples: dict[str, int]
    slots: int
    frames: int
    shards: int
    crop_bytes: int
    token_bytes: int
    seconds: float
    stages: dict[str, float]
    probed: int
    probed_rejected: int


def estimate(
    manifest: pl.DataFrame,
    *,
    root: Path,
    detector: FaceDetector,
    settings: CropSettings,
    encoder: Encoder,
    workers: int | None = None,
) -> Estimate:
    """Predict the cost of building `manifest`. Arguments as for `build`. Writes temporary files, to time the disk."""
    device = encoder.backbone.device
    media = Media(root, detector, settings, workers or default_workers(), crop_threads(device), device)
    planned = planned_samples(manifest, settings)
    shards = plan_shards(planned)["shard"].n_unique()
    with steady_arithmetic():
        probe = probe_media(manifest, media)
        frames = _expected_frames(manifest, settings, probe)
        warm_s, encode_s, write_s = _encode_and_write(encoder, settings.size)
    files = manifest.filter(pl.col("duplicate_of").is_null())["kind"].value_counts().rows()
    cores = default_workers()
    decode_s = sum(probe.decode_s.get(kind, 0.0) * count for kind, count in files)
    crop_s = sum(probe.crop_s.get(kind, 0.0) * count for kind, count in files)
    stages = {
        "decode": decode_s / min(media.workers, cores),
        "crop": crop_s / media.threads,
        "encode": encode_s * frames,
        "write": write_s * frames,
    }
    if device == "cpu":
        together = max((decode_s + crop_s) / cores + stages["encode"] + stages["write"] / cores, *stages.values())
    else:
        together = max((decode_s + crop_s) / cores, *stages.values())
    return Estimate(
        samples=dict(manifest.group_by("kind").len().sort("kind").rows()),
        slots=int(planned["slots"].sum()),
        frames=round(frames),
        shards=shards,
        crop_bytes=_crop_bytes(frames, manifest.height, shards, settings.size),
        token_bytes=_token_bytes(frames, manifest.height, shards, encoder),
        seconds=probe.start_s + warm_s + together,
        stages=stages,
        probed=sum(probe.tried.values()),
        probed_rejected=sum(probe.rejected.values()),
    )


def _expected_frames(manifest: pl.DataFrame, settings: CropSettings, probe: Probe) -> float:
    """Frames that the whole manifest will give: what its media are known to hold, times what the probed files gave of that."""
    total = 0.0
    rows = manifest.filter(pl.col("duplicate_of").is_null())
    for (kind,), group in rows.group_by("kind"):
        given = probe.frames.get(kind, [])
        total += group.height * (float(np.mean(given)) if given else (1 if kind == "image" else settings.frames))
    return total


def _crop_bytes(frames: float, samples: int, shards: int, size: int) -> int:
    ledger = samples * CROP_ROW_BYTES + shards * PART_BYTES
    return round(frames * (size**2 * 3 + CRC_BYTES) + shards * INDEX_BYTES + ledger)


def _token_bytes(frames: float, samples: int, shards: int, encoder: Encoder) -> int:
    arrays = stored_arrays(encoder.dtype, encoder.backbone.grid, encoder.backbone.channels).values()
    frame = sum(int(np.prod(shape)) * np.dtype(name).itemsize + CRC_BYTES for shape, name in arrays)
    statistics = 2 * (2 * 8 * encoder.backbone.channels + 8 + 220)  # mean and M2 of maps and CLS, and their header
    ledger = samples * TOKEN_ROW_BYTES + shards * PART_BYTES
    return round(len(encoder.layers) * (frames * frame + shards * (len(arrays) * INDEX_BYTES + statistics)) + ledger)


def _encode_and_write(encoder: Encoder, size: int) -> tuple[float, float, float]:
    """Seconds to warm up; then seconds a frame of encoding, and of statistics and writing."""
    step = encoder.micro_batch
    crops = np.random.default_rng(0).integers(0, 256, (step, size, size, 3), dtype=np.uint8)
    begin = perf_counter()
    if encoder.dtype == "int8" and not encoder.calibration:
        encoder.calibration = encoder.calibrate(crops)
    tokens = encoder.encode(crops)
    first_s, begin, rounds = perf_counter() - begin, perf_counter(), 0
    count, torch_threads = encode_threads(encoder.backbone.device)
    with ThreadPoolExecutor(count, initializer=lambda: take_threads(torch_threads)) as threads:
        while rounds < 2 * count or (rounds < 16 * count and perf_counter() - begin < ENCODE_S):
            tokens, *_ = threads.map(encoder.encode, [crops] * count)
            rounds += count
    each_s = (perf_counter() - begin) / rounds
    begin = perf_counter()
    moments: dict[str, Moments] = {}
    calibration = {layer: tuple(v.cpu() for v in pair) for layer, pair in encoder.calibration.items()}
    for layer in encoder.layers:
        arrays = {name.removeprefix(f"{layer}/"): v for name, v in tokens.arrays.items() if name.startswith(f"{layer}/")}
        add_to_moments(moments, layer, arrays, calibration)
    statistics_s = (perf_counter() - begin) / step
    return max(0.0, first_s - each_s), each_s / step, statistics_s + _write_s(tokens.arrays, step)


def _write_s(arrays: dict[str, np.ndarray], frames: int) -> float:
    """Seconds a frame to write such arrays to the disk that holds temporary files; 0 where that has no room for them."""
    total = sum(values.nbytes for values in arrays.values())
    rounds = max(1, min(SHARD_FRAMES // frames, WRITE_BYTES // total))
    try:
        with tempfile.TemporaryDirectory(prefix="d2st-plan-") as folder:
            begin = perf_counter()
            for number, values in enumerate(arrays.values()):
                writer = ShardWriter(Path(folder) / str(number), slots=SHARD_FRAMES)
                for _ in range(rounds):
                    writer.append(values)
                writer.close()
            return (perf_counter() - begin) / (rounds * frames)
    except (OSError, StoreError):  # a small disk of temporary files is no reason to refuse a plan
        return 0.0
