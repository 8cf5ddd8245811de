"""How fast the cache is read, side by side in one run: python tests/bench/cache.py [--frames 1536] [--layers 2] [--dir DIR]

Random clips of 12 frames of ViT-B/16 maps (14x14x768, float16), warm page cache, the same clips in the same order for every reader:

    raw         plain preadv of as many bytes from the same files into one reused batch buffer, one thread, nothing checked: the limit
    d2st        TokenLoader, checksums verified
    memmap      one .npy a layer, memory-mapped, a fresh batch each time, as people write it
    safetensors one file a clip
    zarr        zarr-python's own pipeline on our arrays
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import zarr
from safetensors.numpy import save_file
from safetensors.torch import load_file

from d2st.cache import Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array, shard_path
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.shard import ShardWriter

SHAPE = (14, 14, 768)
T, BATCH = 12, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    layers = [f"block_{i}" for i in range(options.layers)]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        store, written = make_store(Path(folder), layers, options.frames)
        clips = np.random.default_rng(0).permutation(options.frames // T).reshape(-1, BATCH) * T
        loader = TokenLoader(store)  # one for all rounds, as a training run has one for all epochs
        readers: dict[str, Callable[[], Iterator[object]]] = {
            "raw": lambda: read_raw(store, layers, clips),
            "d2st": lambda: loader.stream(Request(starts[:, None] + np.arange(T)) for starts in clips),
            "memmap": lambda: read_memmap(Path(folder), layers, clips),
            "safetensors": lambda: read_safetensors(Path(folder), clips),
            "zarr": lambda: read_zarr(store, layers, clips),
        }
        size = clips.size * T * int(np.prod(SHAPE)) * 2 * len(layers)
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.rounds):  # interleaved, so that a noisy moment hits all alike
            for name, read in readers.items():
                begin = time.perf_counter()
                for _batch in read():
                    pass
                times[name].append(time.perf_counter() - begin)
    print(f"{clips.size} clips of {T} frames, {len(layers)} layers, {size / 1e9:.2f} GB; written at {written / 1e9:.2f} GB/s")
    print(f"{'reader':12} {'clips/s':>9} {'GB/s':>7} {'of raw':>7}")
    best = {name: min(seconds) for name, seconds in times.items()}
    for name, seconds in best.items():
        print(f"{name:12} {clips.size / seconds:9.0f} {size / seconds / 1e9:7.2f} {best['raw'] / seconds:7.2f}")


def make_store(folder: Path, layers: list[str], frames: int) -> tuple[Store, float]:
    """A store of noise, the same data as .npy and as safetensors; and our writer's bytes a second."""
    path = folder / "store"
    Store.ensure(path)
    level = ensure_level(path, "tokens", {"layers": layers})
    shards = -(-frames // SHARD_FRAMES)
    noise = np.random.default_rng(0).normal(size=(frames, *SHAPE)).astype(np.float16)
    seconds = 0.0
    (folder / "clips").mkdir()
    for layer in layers:
        for kind, shape in (("maps", SHAPE), ("cls", SHAPE[-1:])):
            ensure_array(level.path / layer / kind, frame_shape=shape, dtype="float16", shards=shards, attributes={})
            values = noise if kind == "maps" else noise[:, 0, 0]
            begin = time.perf_counter()
            for shard in range(shards):
                with ShardWriter(
                    level.shard_file(f"{layer}/{kind}", shard, frame_dims=len(shape)), slots=SHARD_FRAMES
                ) as writer:
                    writer.append(values[shard * SHARD_FRAMES : (shard + 1) * SHARD_FRAMES])
            seconds += time.perf_counter() - begin
        np.save(folder / f"{layer}.npy", noise)
    for start in range(0, frames, T):
        save_file(dict.fromkeys(layers, noise[start : start + T]), folder / "clips" / f"{start}.safetensors")
    for shard in range(shards):
        rows = [[f"s{shard}", shard * SHARD_FRAMES, SHARD_FRAMES, SHARD_FRAMES, None, "", "{}"]]
        level.commit(shard, pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row"), {}, {})
    return Store.open(path), noise.nbytes * len(layers) / seconds


def read_raw(store: Store, layers: list[str], clips: np.ndarray) -> Iterator[object]:
    frame = int(np.prod(SHAPE)) * 2
    buffer = np.empty((len(layers), BATCH, T * frame), np.uint8)
    files = {
        (layer, shard): os.open(shard_path(store.tokens.level.path / layer / "maps", shard, frame_dims=3), os.O_RDONLY)
        for layer in layers
        for shard in range(int(clips.max()) // SHARD_FRAMES + 1)
    }
    for starts in clips:
        for i, layer in enumerate(layers):
            for j, start in enumerate(starts):
                os.preadv(files[layer, start // SHARD_FRAMES], [buffer[i, j]], int(start % SHARD_FRAMES) * (frame + 4))
        yield buffer
    for descriptor in files.values():
        os.close(descriptor)


def read_memmap(folder: Path, layers: list[str], clips: np.ndarray) -> Iterator[object]:
    maps = {layer: np.load(folder / f"{layer}.npy", mmap_mode="r") for layer in layers}
    for starts in clips:
        yield {layer: np.stack([values[start : start + T] for start in starts]) for layer, values in maps.items()}


def read_safetensors(folder: Path, clips: np.ndarray) -> Iterator[object]:
    import torch

    for starts in clips:
        loaded = [load_file(folder / "clips" / f"{start}.safetensors") for start in starts]
        yield {layer: torch.stack([clip[layer] for clip in loaded]) for layer in loaded[0]}


def read_zarr(store: Store, layers: list[str], clips: np.ndarray) -> Iterator[object]:
    arrays = {layer: zarr.open_array(store.tokens.level.path / layer / "maps", mode="r") for layer in layers}
    for starts in clips:
        yield {layer: np.stack([values[start : start + T] for start in starts]) for layer, values in arrays.items()}


if __name__ == "__main__":
    main()
