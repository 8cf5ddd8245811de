"""A small store with everything that one can have, made without media or CLIP."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.codec import calibration_bytes, stored_arrays
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.moments import counted_digest, moments_bytes, moments_name, moments_of
from d2st.cache.plan import extend_plan
from d2st.cache.store import CALIBRATION, Store

GRID, CHANNELS, FRAMES = (2, 2), 4, 3


def _make_store(path: Path) -> Path:
    """Three shards of three samples (three frames each, one sample rejected), crops, an int8 and a float16 token set, an added layer."""
    store = Store.ensure(path)
    ids = [f"s{i}" for i in range(9)]
    manifest = pl.DataFrame({"sample_id": ids, "split": ["train", "train", "test"] * 3})
    store.write_manifest(manifest)
    for new in (ids[:6], ids):
        extend_plan(path / "plan", pl.DataFrame({"sample_id": new, "slots": [128] * len(new)}))
    plan = store.plan()
    crops = ensure_level(path, "crops", {"size": 4})
    ensure_array(crops.array("frames"), frame_shape=(4, 4, 3), dtype="uint8", shards=3, attributes={})
    for (shard,), rows in plan.group_by("shard", maintain_order=True):
        _commit(crops, shard, rows["sample_id"], {"frames": ((4, 4, 3), "uint8")})
    for name, dtype, layers in (
        ("tokens", "int8", ["block_0", "block_1"]),
        ("tokens+1", "int8", ["block_2"]),
        ("tokens-half", "bfloat16", ["block_0"]),
    ):
        level = ensure_level(path, name, {"layers": layers, "dtype": dtype}, {"pretrained": "random:0"})
        if dtype == "int8":
            pair = (np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))
            (level.path / CALIBRATION).write_bytes(calibration_bytes(dict.fromkeys(layers, pair)))
        layout = {f"{layer}/{kind}": it for layer in layers for kind, it in stored_arrays(dtype, GRID, CHANNELS).items()}
        for array, (shape, kind) in layout.items():
            ensure_array(level.array(array), frame_shape=shape, dtype=kind, shards=3, attributes={})
        for part in crops.parts():
            _commit(level, part.shard, part.rows["sample_id"], layout, source=part.content)
    return path


def _commit(level, shard, samples, layout, *, source=None):
    cached = [sample for sample in samples if sample != "s4"]
    starts = {sample: shard * SHARD_FRAMES + FRAMES * i for i, sample in enumerate(cached)}
    rows = [
        [s, starts.get(s), FRAMES if s in starts else 0, 128, None if s in starts else "no_face", "", "{}"] for s in samples
    ]
    rows = [row for row in rows if level.name == "crops" or row[4] is None]
    random = np.random.default_rng(shard)
    with level.stage(shard) as staged:
        for name, (shape, dtype) in layout.items():
            values = random.integers(0, 100, (FRAMES * len(cached), *shape)).astype(dtype)
            staged.writer(name, frame_dims=len(shape)).append(values)
        if level.name != "crops":
            moments = {k: moments_of(np.ones((1, 4))) for layer in level.config["layers"] for k in (layer, f"{layer}/cls")}
            counted = counted_digest(s for s in cached if int(s[1:]) % 3 < 2)
            staged.write(moments_name(shard), moments_bytes(moments, counted=counted))
        assert staged.commit(pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row"), source=source)


@pytest.fixture(scope="session")
def whole_store(tmp_path_factory):
    """Three shards of three samples, three frames each, s4 rejected; not to be changed."""
    return _make_store(tmp_path_factory.mktemp("whole") / "s.d2st")


@pytest.fixture
def store(whole_store, tmp_path):
    """A copy of `whole_store`."""
    shutil.copytree(whole_store, tmp_path / "s.d2st")
    return tmp_path / "s.d2st"
