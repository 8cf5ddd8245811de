"""A store of token maps made without CLIP."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.codec import calibration_bytes, stored_arrays
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.store import CALIBRATION, Store


@dataclass(frozen=True)
class TokenStore:
    """A store, the arrays that it was made from by "<layer>/<kind>" (frames, ...), and the calibration of an int8 one."""

    store: Store
    arrays: dict[str, np.ndarray]
    calibration: dict[str, tuple[np.ndarray, np.ndarray]]


def _make_token_store(path: Path, dtype: str, frames: int) -> TokenStore:
    """Two layers of (2,3,4) maps; one sample a shard."""
    layers, generator = ("block_1", "block_3"), np.random.default_rng(0)
    store = Store.ensure(path)
    level = ensure_level(path, "tokens", {"layers": layers, "dtype": dtype})
    arrays, calibration = {}, {}
    for layer in layers:
        for kind, (shape, name) in stored_arrays(dtype, (2, 3), 4).items():
            values = generator.normal(size=(frames, *shape)).astype(np.float32)
            if name == "uint16":
                values = (values.view(np.uint32) >> 16).astype(np.uint16)
            elif name == "int8":
                values = generator.integers(-127, 128, size=values.shape).astype(np.int8)
            arrays[f"{layer}/{kind}"] = values.astype(name)
        if dtype == "int8":
            calibration[layer] = tuple(generator.uniform(0.5, 2, (2, 4)).astype(np.float32))
    if calibration:
        (level.path / CALIBRATION).write_bytes(calibration_bytes(calibration))
    shards = -(-frames // SHARD_FRAMES)
    extend_plan(path / "plan", pl.DataFrame({"sample_id": [f"s{k}" for k in range(shards)], "slots": [SHARD_FRAMES] * shards}))
    for name, values in arrays.items():
        ensure_array(level.array(name), frame_shape=values.shape[1:], dtype=str(values.dtype), shards=shards, attributes={})
    for shard in range(shards):
        rows = slice(shard * SHARD_FRAMES, min(frames, (shard + 1) * SHARD_FRAMES))
        with level.stage(shard) as staged:
            for name, values in arrays.items():
                staged.writer(name, frame_dims=values.ndim - 1).append(values[rows])
            row = [f"s{shard}", rows.start, rows.stop - rows.start, SHARD_FRAMES, None, "", "{}"]
            staged.commit(pl.DataFrame([row], schema=LEDGER_SCHEMA, orient="row"))
    return TokenStore(store, arrays, calibration)


@pytest.fixture(scope="session")
def token_store():
    """A function (path, dtype, frames) -> `TokenStore` of so many frames."""
    return _make_token_store
