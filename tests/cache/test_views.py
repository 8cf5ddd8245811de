"""Several token sets of the same crops, read as one."""

from itertools import product

import numpy as np
import polars as pl
import pytest
import torch

from d2st.cache import Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.codec import calibration_bytes, stored_arrays
from d2st.cache.errors import ConfigError, FingerprintError, StoreError
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.reader import ArrayReader
from d2st.cache.store import CALIBRATION
from d2st.cache.views import check_mixable, open_views

LAYERS, FRAMES = ("block_1", "block_3"), SHARD_FRAMES + 20
VIEWS = ["main", "flip", "bright"]


def add_set(store, name, arrays, *, calibration=None, layers=LAYERS, **config):
    """A token set beside the first: the same rows, other values (or some of the shards alone)."""
    config = {"layers": list(layers), "dtype": store.tokens.dtype, **config}
    level = ensure_level(store.path, f"tokens-{name}", config)
    if calibration:
        (level.path / CALIBRATION).write_bytes(calibration_bytes(calibration))
    frames = len(next(iter(arrays.values())))
    for array, values in arrays.items():
        ensure_array(level.array(array), frame_shape=values.shape[1:], dtype=str(values.dtype), shards=2, attributes={})
    for shard in range(-(-frames // SHARD_FRAMES)):
        rows = slice(shard * SHARD_FRAMES, min(frames, (shard + 1) * SHARD_FRAMES))
        with level.stage(shard) as staged:
            for array, values in arrays.items():
                staged.writer(array, frame_dims=values.ndim - 1).append(values[rows])
            row = [f"s{shard}", rows.start, rows.stop - rows.start, SHARD_FRAMES, None, "", "{}"]
            staged.commit(pl.DataFrame([row], schema=LEDGER_SCHEMA, orient="row"))


def other_values(arrays, seed):
    generator = np.random.default_rng(seed)
    return {name: generator.permutation(values, axis=0) for name, values in arrays.items()}


@pytest.fixture(scope="module", params=["float16", "int8"])
def viewed(request, token_store, tmp_path_factory):
    """(store, arrays by view) with the views flip, whose values are others, and bright, which has one shard alone."""
    made = token_store(tmp_path_factory.mktemp(request.param) / "s", request.param, FRAMES)
    flip, bright = (other_values(made.arrays, seed) for seed in (1, 2))
    add_set(made.store, "flip", flip, calibration=made.calibration, view={"flip": True})
    bright = {name: values[:SHARD_FRAMES] for name, values in bright.items()}
    add_set(made.store, "bright", bright, calibration=made.calibration, view={"flip": False, "brightness": 0.2, "name": "b"})
    return made, [made.arrays, flip, bright]


def expected(made, arrays, layer, rows):
    """Maps (T,H,W,C) of one clip, by plain arithmetic."""
    maps = np.stack([arrays[f"{layer}/maps"][max(row, 0)] for row in rows])
    if made.store.tokens.dtype == "int8":
        mean, std = made.calibration[layer]
        scales = np.stack([arrays[f"{layer}/scales"][max(row, 0)] for row in rows])
        maps = maps.astype(np.float32) * scales.astype(np.float32)[..., None] * std + mean
    maps[[row < 0 for row in rows]] = 0
    return maps


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batch_may_mix_views(viewed, in_memory):
    made, arrays = viewed
    views = open_views(made.store, VIEWS)
    assert list(views) == ["flip", "bright"]
    generator, wanted = np.random.default_rng(0), []
    for number in range(12):
        start = generator.integers(0, SHARD_FRAMES - 8, 6)
        rows = start[:, None] + np.arange(4)
        rows[:2] += SHARD_FRAMES - 2 - rows[:2, :1]  # across the end of a shard
        rows[3, 2:] = -1
        view = generator.integers(0, 3, 6)
        view[:2] = number % 2  # bright has no second shard
        wanted.append((rows, view))
    with TokenLoader(made.store, views=views, in_memory=in_memory) as loader:
        assert loader.stride == 2 * SHARD_FRAMES
        for _ in range(2):
            shifted = (np.where(rows < 0, -1, rows + view[:, None] * loader.stride) for rows, view in wanted)
            for (rows, view), batch in zip(wanted, loader.stream(Request(rows) for rows in shifted), strict=True):
                torch.testing.assert_close(batch.mask, torch.from_numpy(rows >= 0))
                for layer, b in product(LAYERS, range(6)):
                    found = batch.tokens[layer][b].numpy()
                    np.testing.assert_allclose(found, expected(made, arrays[view[b]], layer, rows[b]), rtol=1e-5, atol=1e-5)
                    cls = batch.cls[layer][b][rows[b] >= 0].numpy()
                    np.testing.assert_array_equal(cls, arrays[view[b]][f"{layer}/cls"][rows[b][rows[b] >= 0]])


def test_rows_that_a_view_lacks_are_errors_and_never_those_of_the_next(viewed):
    made, _ = viewed
    names = [f"block_1/{kind}" for kind in stored_arrays(made.store.tokens.dtype, (2, 3), 4)]
    with TokenLoader(made.store, views=open_views(made.store, VIEWS)) as loader:
        for row, says in (
            (FRAMES, r"tokens/block_1/\w+: row 404 was never"),
            (FRAMES + loader.stride, r"tokens-flip/block_1/\w+: row 404 was never"),
            (2 * loader.stride + SHARD_FRAMES, r"tokens-bright/block_1/\w+/c/1/.*is missing"),
            (3 * loader.stride, r"tokens-bright/block_1/\w+/c/2/.*is missing"),
        ):
            with pytest.raises(StoreError, match=says):
                next(loader.stream([Request(np.array([[row]]))]))
    for name in names:
        path, other = (made.store.path / folder / name for folder in ("tokens", "tokens-flip"))
        with ArrayReader(path, views=[other], stride=2 * SHARD_FRAMES) as reader:
            out = np.empty((2, *reader.frame_shape), reader.dtype)
            reader.read([SHARD_FRAMES - 1, SHARD_FRAMES], out)  # side by side as numbers, in two files


def test_what_cannot_be_mixed_is_refused_by_name(token_store, tmp_path):
    made = token_store(tmp_path / "s", "int8", 20)
    store, arrays = made.store, made.arrays
    add_set(store, "flip", arrays, calibration=made.calibration, view={"flip": True})
    check_mixable(store, open_views(store, ["flip", "main"]), layers=LAYERS)
    assert open_views(store, []) == {}
    with pytest.raises(ConfigError, match="no token set named 'mirrored', it has main, flip") as refused:
        open_views(store, ["main", "mirrored"])
    assert "cache encode" in refused.value.fix
    with pytest.raises(ConfigError, match="'main', which validation needs, is not among the views flip"):
        open_views(store, ["flip"])
    with pytest.raises(ConfigError, match="twice"):
        open_views(store, ["main", "flip", "flip"])
    assert list(open_views(Store.open(store.path, tokens="flip"), ["main", "flip"])) == ["main"]

    add_set(store, "large", arrays, calibration=made.calibration, view={"flip": True}, image_size=384, crops={"size": 9})
    with pytest.raises(FingerprintError, match="image_size is 384 there, 'absent' here") as refused:
        TokenLoader(store, views=open_views(store, ["main", "large"]))
    assert refused.value.fields == ["crops", "image_size"]

    one = {name: values for name, values in arrays.items() if name.startswith("block_1")}
    add_set(store, "one", one, calibration={"block_1": made.calibration["block_1"]}, layers=["block_1"], view={"flip": True})
    TokenLoader(store, ["block_1"], views=open_views(store, ["main", "one"])).close()
    with pytest.raises(ConfigError, match=r"'one'.* lacks block_3") as refused:
        TokenLoader(store, views=open_views(store, ["main", "one"]))
    assert "add-layers" in refused.value.fix

    shifted = {layer: (mean + 1, std) for layer, (mean, std) in made.calibration.items()}
    add_set(store, "shifted", arrays, calibration=shifted, view={"flip": True})
    with pytest.raises(ConfigError, match="block_1 was calibrated otherwise"):
        TokenLoader(store, views=open_views(store, ["main", "shifted"]))
