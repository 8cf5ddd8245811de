"""How fast training gets its batches, side by side in one run: python tests/bench/cache.py [--device cuda] [--clip NAME PRETRAINED]

Random clips of 12 frames of ViT-B/16 maps (14x14x768) and their CLS tokens in batches of 16, warm page cache, the same clips in the same
order for everybody:

    raw           plain reads of the same files from end to end into one reused batch buffer, nothing checked; the best number of threads
    d2st          TokenLoader in its second and later epochs; int8 decoded to float32, and as it is stored
    ... first     a new one each time: every frame is verified, and the buffers of the ring are new
    ... in memory the same with in_memory=True, after its first epoch
    memmap        one .npy a layer, memory-mapped: a fresh batch each time, as people write it, and into a reused one
    DataLoader    torch's, two workers over such memmaps
    safetensors   one file a clip
    zarr          zarr-python's own pipeline on our arrays
    CLIP online   the whole encoder on as many crops, without video decoding and face detection: what the cache replaces

"of raw" compares bytes a second. Rounds are interleaved, so that a noisy moment hits all alike, and the best one counts.
With --batches N the loaders just run for N batches, and resident memory is printed at the start, in the middle and at the end.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
import zarr
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from d2st.cache import Batch, Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.codec import calibration_bytes, stored_arrays
from d2st.cache.files import write_atomic
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level

GRID, CHANNELS = (14, 14), 768
T = 12


@dataclass(frozen=True)
class Contestant:
    """`epoch` yields the batches of one epoch, of `frame_bytes` a frame; `raw` names the plain read that it is compared with."""

    name: str
    epoch: Callable[[], Iterable[object]]
    frame_bytes: int
    raw: str | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch, as the recipes have it")
    parser.add_argument("--threads", type=int, default=None, help="reading threads of d2st")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clip", nargs=2, metavar=("NAME", "PRETRAINED"), default=("ViT-B-16-quickgelu", "random:0"))
    parser.add_argument("--no-clip", action="store_true")
    parser.add_argument("--batches", type=int, default=None)
    parser.add_argument("--dir", type=Path, default=None, help="where to put 2.3 MB a frame and layer, for the time of the run")
    options = parser.parse_args()
    clips = np.random.default_rng(0).permutation(options.frames // T)  # numbers of clips
    clips = clips[: len(clips) // options.batch * options.batch].reshape(-1, options.batch)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        layers = [f"block_{i}" for i in range(options.layers)]
        stores = {dtype: make_store(folder / dtype, dtype, layers, options.frames) for dtype in ("float16", "int8")}
        if options.batches:
            run_long(stores, options.batches, clips, options.device)
            return
        copy_for_others(folder, stores["float16"], layers, options.frames)
        field = contestants(folder, stores, layers, clips, options)
        times = race(field, options.rounds, options.device)
    print(f"{clips.size} clips of {T} frames, {len(layers)} layers, batches of {options.batch};", end=" ")
    print(f"device {options.device}, {os.cpu_count()} cores")
    print(f"{'reader':26} {'clips/s':>9} {'GB/s':>7} {'of raw':>7}")
    for one in field:
        size, seconds = clips.size * T * one.frame_bytes, times[one.name]
        ratio = f"{size / seconds / best_raw(field, times, one.raw, clips):7.2f}" if one.raw else ""
        print(f"{one.name:26} {clips.size / seconds:9.0f} {size / seconds / 1e9:7.2f} {ratio:>7}")
    if not options.no_clip:
        rate = clip_rate(*options.clip, layers=len(layers), device=options.device)
        print(f"{'CLIP online':26} {rate / T:9.2f}    ({rate:.1f} images/s, {' '.join(options.clip)})")


def contestants(
    folder: Path, stores: dict[str, Store], layers: list[str], clips: np.ndarray, options: argparse.Namespace
) -> list[Contestant]:
    device = options.device
    arrays = {
        dtype: [store.tokens.array(layer, kind) for layer in layers for kind in stored_arrays(dtype, GRID, CHANNELS)]
        for dtype, store in stores.items()
    }
    sizes = {
        dtype: len(layers) * sum(int(np.prod(shape)) * np.dtype(name).itemsize for shape, name in kinds.values())
        for dtype, kinds in ((dtype, stored_arrays(dtype, GRID, CHANNELS)) for dtype in stores)
    }
    field = []
    for dtype, store in stores.items():
        files = sorted(file for array in arrays[dtype] for file in array.glob("c/**/*") if file.is_file())
        for threads in sorted({1, 2, options.threads or 2}):
            plain = PlainReads(files, buffer_bytes=options.batch * T * sizes[dtype], threads=threads)
            field.append(Contestant(f"raw {dtype}, {threads} threads", plain.epoch, sizes[dtype], f"raw {dtype}"))
        loader = TokenLoader(store, device=device, threads=options.threads)
        field.append(Contestant(f"d2st {dtype}", over(loader, clips), sizes[dtype], f"raw {dtype}"))
        first = partial(first_epoch, store, clips, device, options.threads)
        field.append(Contestant(f"d2st {dtype}, first epoch", first, sizes[dtype], f"raw {dtype}"))
        if dtype == "int8":
            bare = TokenLoader(store, device=device, threads=options.threads)
            bare._decode = lambda request, arrays, mask, buffers: Batch({}, {}, mask, request.tag)
            field.append(Contestant("d2st int8, not decoded", over(bare, clips), sizes[dtype], f"raw {dtype}"))
        kept = TokenLoader(store, device=device, threads=options.threads, in_memory=True)
        field.append(Contestant(f"d2st {dtype}, in memory", over(kept, clips), sizes[dtype], f"raw {dtype}"))
    maps_bytes = len(layers) * int(np.prod((*GRID, CHANNELS))) * 2
    maps = {layer: np.load(folder / f"{layer}.npy", mmap_mode="r") for layer in layers}
    # forked workers would make every page of this process copy-on-write, and hurt all others
    workers = DataLoader(
        Clips(folder, layers),
        batch_sampler=clips.tolist(),
        num_workers=2,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    others = {
        "memmap, fresh batch": lambda: read_memmap(maps, clips, device),
        "memmap, reused batch": lambda: read_memmap_reused(maps, clips, device),
        "DataLoader, 2 workers": lambda: workers,
        "safetensors, a file a clip": lambda: read_safetensors(folder / "clips", clips, device),
        "zarr": lambda: read_zarr(stores["float16"], layers, clips, device),
    }
    return field + [Contestant(name, epoch, maps_bytes, "raw float16") for name, epoch in others.items()]


def first_epoch(store: Store, clips: np.ndarray, device: str, threads: int | None) -> Iterator[object]:
    with TokenLoader(store, device=device, threads=threads) as loader:
        yield from over(loader, clips)()


def over(loader: TokenLoader, clips: np.ndarray) -> Callable[[], Iterable[object]]:
    return lambda: loader.stream(Request(part[:, None] * T + np.arange(T)) for part in clips)


def race(field: list[Contestant], rounds: int, device: str) -> dict[str, float]:
    """The best time of an epoch, by name; the first round, in which memory is faulted in and files are opened, does not count."""
    times: dict[str, list[float]] = {one.name: [] for one in field}
    for number in range(rounds + 1):
        for one in field:
            begin = time.perf_counter()
            for _batch in one.epoch():
                pass
            if device != "cpu":
                torch.cuda.synchronize(device)
            if number:
                times[one.name].append(time.perf_counter() - begin)
    return {name: min(seconds) for name, seconds in times.items()}


def best_raw(field: list[Contestant], times: dict[str, float], raw: str, clips: np.ndarray) -> float:
    """Bytes a second of the best plain read."""
    return max(clips.size * T * one.frame_bytes / times[one.name] for one in field if one.name.startswith(raw))


def make_store(path: Path, dtype: str, layers: list[str], frames: int) -> Store:
    """A store of noise."""
    level = ensure_level(path, "tokens", {"layers": layers, "dtype": dtype})
    if dtype == "int8":
        unit = (np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))
        write_atomic(level.path / "calibration.safetensors", calibration_bytes(dict.fromkeys(layers, unit)))
    shards = -(-frames // SHARD_FRAMES)
    generator = np.random.default_rng(0)
    kinds = stored_arrays(dtype, GRID, CHANNELS)
    for shard in range(shards):
        count = min(SHARD_FRAMES, frames - shard * SHARD_FRAMES)
        row = [f"s{shard}", shard * SHARD_FRAMES, count, count, None, "", "{}"]
        with level.stage(shard) as staged:
            for layer in layers:
                for kind, (shape, stored) in kinds.items():
                    ensure_array(level.array(f"{layer}/{kind}"), frame_shape=shape, dtype=stored, shards=shards, attributes={})
                    staged.writer(f"{layer}/{kind}", frame_dims=len(shape)).append(noise(generator, (count, *shape), stored))
            staged.commit(pl.DataFrame([row], schema=LEDGER_SCHEMA, orient="row"))
    return Store.open(path)


def noise(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "int8":
        return generator.integers(-127, 128, size=shape, dtype=np.int8)
    return generator.integers(0, 0x7C00, size=shape, dtype=np.uint16).view(np.float16)  # finite


def copy_for_others(folder: Path, store: Store, layers: list[str], frames: int) -> None:
    """The same maps as .npy and as safetensors."""
    (folder / "clips").mkdir()
    maps = {
        layer: np.lib.format.open_memmap(folder / f"{layer}.npy", "w+", np.float16, (frames, *GRID, CHANNELS))
        for layer in layers
    }
    with TokenLoader(store) as loader:
        for batch in loader.stream(Request(np.arange(start, start + T)[None], start) for start in range(0, frames - T + 1, T)):
            clip = {layer: tokens[0].numpy() for layer, tokens in batch.tokens.items()}
            for layer, values in clip.items():
                maps[layer][batch.tag : batch.tag + T] = values
            save_file(clip, folder / "clips" / f"{batch.tag // T}.safetensors")


class PlainReads:
    """Files read from end to end, in pieces of a batch, which the threads share."""

    def __init__(self, files: list[Path], *, buffer_bytes: int, threads: int) -> None:
        self._files, self._threads = files, threads
        self._buffer = np.zeros(buffer_bytes, np.uint8)

    def epoch(self) -> Iterator[None]:
        with ThreadPoolExecutor(self._threads) as pool:
            share = len(self._buffer) // self._threads
            parts = [self._buffer[i * share : (i + 1) * share] for i in range(self._threads)]
            yield from pool.map(self._read, parts, [self._files[i :: self._threads] for i in range(self._threads)])

    def _read(self, buffer: np.ndarray, files: list[Path]) -> None:
        place = 0
        for path in files:
            descriptor = os.open(path, os.O_RDONLY)
            offset = 0
            while count := os.preadv(descriptor, [buffer[place : place + 4 * 2**20]], offset):
                offset += count
                place = (place + count) % (len(buffer) - 2**22)
            os.close(descriptor)


def read_memmap(maps: dict[str, np.ndarray], clips: np.ndarray, device: str) -> Iterator[object]:
    for part in clips:
        yield {
            layer: torch.from_numpy(np.stack([values[clip * T : clip * T + T] for clip in part])).to(device)
            for layer, values in maps.items()
        }


def read_memmap_reused(maps: dict[str, np.ndarray], clips: np.ndarray, device: str) -> Iterator[object]:
    batch = {layer: torch.zeros((clips.shape[1], T, *GRID, CHANNELS), dtype=torch.float16) for layer in maps}
    for part in clips:
        for layer, values in maps.items():
            for place, clip in zip(batch[layer].numpy(), part, strict=True):
                place[:] = values[clip * T : clip * T + T]
        yield {layer: tensor.to(device) for layer, tensor in batch.items()}


class Clips(Dataset):
    """Clips as torch's DataLoader wants them."""

    def __init__(self, folder: Path, layers: list[str]) -> None:
        self._files = {layer: folder / f"{layer}.npy" for layer in layers}
        self._maps: dict[str, np.ndarray] = {}

    def __getitem__(self, clip: int) -> dict[str, torch.Tensor]:
        if not self._maps:  # in the worker
            self._maps = {layer: np.load(path, mmap_mode="r") for layer, path in self._files.items()}
        return {layer: torch.from_numpy(values[clip * T : clip * T + T].copy()) for layer, values in self._maps.items()}


def read_safetensors(folder: Path, clips: np.ndarray, device: str) -> Iterator[object]:
    for part in clips:
        loaded = [load_file(folder / f"{clip}.safetensors") for clip in part]
        yield {layer: torch.stack([clip[layer] for clip in loaded]).to(device) for layer in loaded[0]}


def read_zarr(store: Store, layers: list[str], clips: np.ndarray, device: str) -> Iterator[object]:
    arrays = {layer: zarr.open_array(store.tokens.array(layer, "maps"), mode="r") for layer in layers}
    for part in clips:
        yield {
            layer: torch.from_numpy(np.stack([values[clip * T : clip * T + T] for clip in part])).to(device)
            for layer, values in arrays.items()
        }


def clip_rate(name: str, pretrained: str, *, layers: int, device: str) -> float:
    """Images a second through the frozen encoder, token maps of its last `layers` blocks taken."""
    from d2st.pipeline.clip import Encoder, load_backbone

    backbone = load_backbone(name, pretrained, device=device)
    depth = len(backbone.model.transformer.resblocks)
    encoder = Encoder(backbone, [f"block_{i}" for i in range(depth - layers, depth)])
    count = 192 if device != "cpu" else 48
    crops = np.random.default_rng(0).integers(0, 256, size=(count, 224, 224, 3), dtype=np.uint8)
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        encoder.encode(crops)
        best = min(best, time.perf_counter() - begin)
    return count / best


def run_long(stores: dict[str, Store], batches: int, clips: np.ndarray, device: str) -> None:
    """Resident memory over many batches."""
    for dtype, store in stores.items():
        parts = (clips[i % len(clips)] for i in range(batches))
        marks = {10: "start", batches // 2: "middle", batches - 1: "end"}  # the ring is full after a few
        with TokenLoader(store, device=device) as loader:
            for number, _ in enumerate(loader.stream(Request(part[:, None] * T + np.arange(T)) for part in parts)):
                if number in marks:
                    print(f"{dtype}: {marks[number]:7} batch {number:6}: {resident_bytes() / 1e6:8.1f} MB resident", flush=True)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
