"""How well the stages of a build overlap: python tests/bench/build.py MANIFEST [--samples 60] [--backbone d2st-demo] [--layers four]

Each stage alone, with the processes and threads that a build gives it, then the whole build, all in one run:

    decode      child processes
    crop        threads, on frames that are in memory
    encode      CLIP, on crops that are in memory
    write       statistics, shard files, commit (fsync)

The slowest stage alone is the limit where each stage has its own hardware. Stages that share processor cores can't reach it; for them the
limit is where the processor seconds of all stages together fill the cores.
"""

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.moments import Moments
from d2st.cache.statistics import add_to_moments
from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.build.run import build
from d2st.pipeline.build.threads import crop_threads, encode_threads, take_threads
from d2st.pipeline.build.tokens import ensure_token_arrays
from d2st.pipeline.build.use import ProcessorTime
from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers
from d2st.pipeline.clip.taps import steady_arithmetic
from d2st.pipeline.faces import FaceDetector, build_detector
from d2st.pipeline.manifest import manifest_root, read_manifest
from d2st.pipeline.media import DecodePool, Frames, Job, default_workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu")
    parser.add_argument("--pretrained", default="random:0")
    parser.add_argument("--layers", default="four")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dir", type=Path, default=None, help="on the disk that is to be measured")
    options = parser.parse_args()
    rows = read_manifest(options.manifest).sort("sample_id")
    rows = rows.gather_every(max(1, rows.height // options.samples)).head(options.samples)
    root = manifest_root(options.manifest)
    backbone = load_backbone(options.backbone, options.pretrained, device=options.device)
    encoder = Encoder(backbone, resolve_layers(options.layers, backbone.depth), dtype=options.dtype)
    detector, settings = build_detector("mtcnn", device=backbone.device), CropSettings(size=backbone.image_size)
    used: dict[str, tuple[float, float, int]] = {}  # stage -> wall, processor seconds, frames

    def timed(stage: str, work: Callable[[], int]) -> None:
        spent, begin = ProcessorTime(), perf_counter()
        with spent.running():
            frames = work()
        used[stage] = perf_counter() - begin, spent.own_s + spent.children_s, frames

    decoded: list[Frames] = []
    crops: list[np.ndarray] = []
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, steady_arithmetic():
        warm_up(encoder, detector, settings.size)
        timed("decode", lambda: decode(rows, root, settings, decoded))
        timed("crop", lambda: crop(decoded, detector, settings, backbone.device, crops))
        images = np.concatenate(crops)
        if encoder.dtype == "int8":
            encoder.calibration = encoder.calibrate(images[:256])
        encoded: list[dict[str, np.ndarray]] = []
        timed("encode", lambda: encode(encoder, images, encoded))
        timed("write", lambda: write(Path(folder) / "write", encoder, encoded))
        timed("build", lambda: build_all(rows, Path(folder) / "build", root, detector, settings, encoder))
    show(used, shared=backbone.device == "cpu")


def warm_up(encoder: Encoder, detector: FaceDetector, size: int) -> None:
    blank = np.zeros((encoder.micro_batch, size, size, 3), np.uint8)
    if encoder.dtype == "int8":
        encoder.calibration = encoder.calibrate(blank)
    encoder.encode(blank)
    detector.detect([np.zeros((480, 640, 3), np.uint8)])


def decode(rows: pl.DataFrame, root: Path, settings: CropSettings, decoded: list[Frames]) -> int:
    jobs = (
        Job(sample, str(root / path), kind, settings.frames, settings.sampling)
        for sample, path, kind in rows.select("sample_id", "path", "kind").iter_rows()
    )
    with DecodePool(default_workers()) as pool:
        decoded.extend(frames for _, frames in pool.map(jobs) if isinstance(frames, Frames))
    return sum(len(frames.images) for frames in decoded)


def crop(decoded: list[Frames], detector: FaceDetector, settings: CropSettings, device: str, crops: list[np.ndarray]) -> int:
    with ThreadPoolExecutor(crop_threads(device), initializer=lambda: take_threads(1, stream_on=device)) as threads:
        crops.extend(images for images, _ in threads.map(lambda frames: crop_frames(frames, detector, settings), decoded))
    return sum(map(len, crops))


def encode(encoder: Encoder, images: np.ndarray, encoded: list[dict[str, np.ndarray]]) -> int:
    step = encoder.micro_batch
    count, each = encode_threads(encoder.backbone.device)
    with ThreadPoolExecutor(count, initializer=lambda: take_threads(each)) as threads:
        steps = range(0, len(images), step)
        encoded.extend(threads.map(lambda at: encoder.encode(images[at : at + step]).arrays, steps))
    return len(images)


def write(store: Path, encoder: Encoder, encoded: list[dict[str, np.ndarray]]) -> int:
    level = ensure_level(store, "tokens", encoder.declared())
    ensure_token_arrays(level, encoder, shards=1)
    calibration = {layer: tuple(values.cpu() for values in pair) for layer, pair in encoder.calibration.items()}
    moments: dict[str, Moments] = {}
    count = 0
    with level.stage(0) as staged:
        writers = {name: staged.writer(name, frame_dims=values.ndim - 1) for name, values in encoded[0].items()}
        for arrays in encoded:
            if count + len(next(iter(arrays.values()))) > 384:
                break
            for layer in encoder.layers:
                kinds = {name.removeprefix(f"{layer}/"): v for name, v in arrays.items() if name.startswith(f"{layer}/")}
                add_to_moments(moments, layer, kinds, calibration)
            for name, values in arrays.items():
                writers[name].append(values)
            count += len(next(iter(arrays.values())))
        staged.commit(LEDGER_SCHEMA.to_frame())
    return count


def build_all(
    rows: pl.DataFrame, store: Path, root: Path, detector: FaceDetector, settings: CropSettings, encoder: Encoder
) -> int:
    report = build(rows, store, root=root, detector=detector, settings=settings, encoder=encoder)
    for use in report.stages:
        print(
            f"  {use.stage:8} busy {use.busy:4.0%}   the report says that alone it would reach {use.alone_per_s:8.1f} frames/s"
        )
    print(f"  {report.advice}")
    return report.frames


def show(used: dict[str, tuple[float, float, int]], *, shared: bool) -> None:
    speeds = {stage: frames / wall for stage, (wall, _, frames) in used.items()}
    print(f"{'stage':8} {'frames/s':>9} {'CPU ms/frame':>13}")
    for stage, (_, cpu, frames) in used.items():
        print(f"{stage:8} {speeds[stage]:9.1f} {1000 * cpu / frames:13.2f}")
    built = speeds.pop("build")
    slowest = min(speeds, key=speeds.__getitem__)
    print(f"slowest alone: {slowest}, {speeds[slowest]:.1f} frames/s; the build reaches {built / speeds[slowest]:.2f} of it")
    if shared:
        cpu_s = sum(cpu / frames for stage, (_, cpu, frames) in used.items() if stage != "build")
        limit = default_workers() / cpu_s
        print(
            f"stages share {default_workers()} cores: together {limit:.1f} frames/s at most; the build reaches {built / limit:.2f} of it"
        )


if __name__ == "__main__":
    main()
