"""Small real stores with planted traces: a shifted patch in every fake, and in its videos another one whose sign alternates in time."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache import Store
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.moments import add_frames, counted_digest, moments_bytes, moments_name
from d2st.cache.plan import extend_plan

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
    backbone: str | None = None,
) -> Store:
    """A store of float16 token maps in one shard, with plan, ledger and moments, as a build leaves it."""
    manifest = make_manifest(images=images, videos=videos, frames=frames)
    Store.ensure(path)
    config = {"layers": list(LAYERS), "dtype": "float16"} | ({"backbone": backbone} if backbone else {})
    level = ensure_level(path, "tokens", config)
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
    assert start <= SHARD_FRAMES
    extend_plan(path / "plan", manifest.select("sample_id", pl.col("frames").alias("slots")))
    arrays = {}
    for layer in LAYERS:
        maps = np.concatenate(values[layer]).astype(np.float16)
        arrays |= {f"{layer}/maps": maps, f"{layer}/cls": maps.mean((1, 2)).astype(np.float16)}
    with level.stage(0) as staged:
        for name, array in arrays.items():
            ensure_array(level.array(name), frame_shape=array.shape[1:], dtype="float16", shards=1, attributes={})
            staged.writer(name, frame_dims=array.ndim - 1).append(array)
        moments = {name.removesuffix("/maps"): add_frames(None, array) for name, array in arrays.items()}
        staged.write(moments_name(0), moments_bytes(moments, counted=counted_digest(manifest["sample_id"])))
        assert staged.commit(pl.DataFrame(ledger, schema=LEDGER_SCHEMA, orient="row"))
    store = Store.open(path)
    store.write_manifest(manifest.drop("frames"))
    return store


@pytest.fixture(scope="session", name="make_store")
def make_store_fixture():
    return make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("store") / "toy.d2st")
