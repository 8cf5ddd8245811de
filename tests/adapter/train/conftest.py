"""Small real stores with planted traces: a shifted patch in every fake, and in its videos another one whose sign alternates in time."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from d2st.cache import Store
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.moments import moments_of
from d2st.cache.shard import ShardWriter
from d2st.cache.store import moments_path

LAYERS = ("block_1", "block_3")


def make_manifest(*, images: int, videos: int, frames: int) -> pl.DataFrame:
    """Half of each kind is fake; 60 % train, 20 % val, 20 % test; each sample has an identity of its own."""
    rows = []
    for kind, count in (("image", images), ("video", videos)):
        for i in range(count):
            label, split = i % 2, ("train", "train", "train", "val", "test")[(i // 2) % 5]
            name = f"{kind}{i:04d}"
            rows.append(
                (name, kind, label, "toy", "swap" if label else "real", split, name, [name], frames if kind == "video" else 1)
            )
    schema = {
        "sample_id": pl.String,
        "kind": pl.Enum(["image", "video", "frames"]),
        "label": pl.Int8,
        "dataset": pl.String,
        "method": pl.String,
        "split": pl.Enum(["train", "val", "test"]),
        "video_id": pl.String,
        "identity": pl.List(pl.String),
        "frames": pl.Int32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").sort("sample_id")


def make_store(
    path: Path,
    *,
    images: int = 20,
    videos: int = 20,
    frames: int = 5,
    grid: tuple[int, int] = (4, 3),
    channels: int = 16,
    seed: int = 0,
) -> Store:
    """A store of float16 token maps in one shard or more, with ledger and moments, as a build leaves it."""
    manifest = make_manifest(images=images, videos=videos, frames=frames)
    Store.ensure(path)
    level = ensure_level(path, "tokens", {"layers": list(LAYERS), "dtype": "float16"})
    rng = np.random.default_rng(seed)
    ledger, values, start = [], {layer: [] for layer in LAYERS}, 0
    for sample_id, kind, label, count in manifest.select("sample_id", "kind", "label", "frames").rows():
        ledger.append((sample_id, start, count, count, None, "", "{}"))
        start += count
        for depth, layer in enumerate(LAYERS):
            maps = rng.normal(size=(count, *grid, channels)) * (1 + depth) + 0.5  # (T, H, W, C)
            maps[:, 0, 0, :4] += 2.5 * label
            if kind == "video":
                maps[:, 1, 1, 4:8] += 2.0 * label * (-1.0) ** np.arange(count)[:, None]
            values[layer].append(maps)
    shards = -(-start // SHARD_FRAMES)
    for layer in LAYERS:
        maps = np.concatenate(values[layer]).astype(np.float16)
        for kind, array in (("maps", maps), ("cls", maps.mean((1, 2)).astype(np.float16))):
            ensure_array(level.path / layer / kind, frame_shape=array.shape[1:], dtype="float16", shards=shards, attributes={})
            for shard in range(shards):
                part = array[shard * SHARD_FRAMES : (shard + 1) * SHARD_FRAMES]
                with ShardWriter(
                    level.shard_file(f"{layer}/{kind}", shard, frame_dims=array.ndim - 1), slots=SHARD_FRAMES
                ) as writer:
                    writer.append(part)
                _write_moments(moments_path(level, shard), f"{layer}/cls" if kind == "cls" else layer, part)
    for shard in range(shards):
        level.commit(shard, pl.DataFrame(ledger if shard == 0 else [], schema=LEDGER_SCHEMA, orient="row"), {}, {})
    manifest.drop("frames").write_parquet(path / "manifest.parquet")
    return Store.open(path)


def _write_moments(path: Path, name: str, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = load_file(path) if path.exists() else {}
    found = moments_of(array)
    save_file(known | {f"{name}.count": np.array([found.count]), f"{name}.mean": found.mean, f"{name}.m2": found.m2}, path)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small only lose by threads, and on a busy machine they lose a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", name="make_store")
def make_store_fixture():
    return make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("store") / "toy.d2st")
