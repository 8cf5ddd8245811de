"""The loader: the very bytes of the store, padding zeroed, order kept, buffers reused, errors passed on."""

import numpy as np
import polars as pl
import pytest
import torch

from d2st.cache import Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.errors import StoreError
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.shard import ShardWriter

LAYERS = ("block_1", "block_3")
FRAMES = SHARD_FRAMES + 30


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store with two layers of (2,3,4) maps; returns it with the arrays that it was made from."""
    path = tmp_path_factory.mktemp("store") / "s"
    Store.ensure(path)
    level = ensure_level(path, "tokens", {"layers": list(LAYERS)})
    generator = np.random.default_rng(0)
    data = {}
    for layer in LAYERS:
        for kind, shape in (("maps", (2, 3, 4)), ("cls", (4,))):
            values = generator.normal(size=(FRAMES, *shape)).astype(np.float16)
            data[f"{layer}/{kind}"] = values
            ensure_array(level.path / layer / kind, frame_shape=shape, dtype="float16", shards=2, attributes={})
            for shard in range(2):
                file = level.shard_file(f"{layer}/{kind}", shard, frame_dims=len(shape))
                with ShardWriter(file, slots=SHARD_FRAMES) as writer:
                    writer.append(values[shard * SHARD_FRAMES : (shard + 1) * SHARD_FRAMES])
    for shard in range(2):
        level.commit(
            shard,
            pl.DataFrame([[f"s{shard}", shard * SHARD_FRAMES, 1, 1, None, "", "{}"]], schema=LEDGER_SCHEMA, orient="row"),
            {},
            {},
        )
    return Store.open(path), data


def requests(count, seed=0):
    generator = np.random.default_rng(seed)
    for tag in range(count):
        batch, length = generator.integers(1, 5), generator.integers(1, 8)
        rows = generator.integers(0, FRAMES - length, size=(batch, 1)) + np.arange(length)
        for clip in rows:
            clip[generator.integers(1, length + 1) :] = -1
        yield Request(rows, tag)


@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (2, 3), (4, 2)])
def test_batches_hold_the_rows_asked_for(built, threads, depth):
    store, data = built
    loader = TokenLoader(store, threads=threads, depth=depth)
    wanted = list(requests(40))
    for request, batch in zip(wanted, loader.stream(iter(wanted)), strict=True):
        assert batch.tag == request.tag
        assert torch.equal(batch.mask, torch.from_numpy(request.rows >= 0))
        for layer in LAYERS:
            for kind, tensors in (("maps", batch.tokens), ("cls", batch.cls)):
                expected = data[f"{layer}/{kind}"][request.rows] * (request.rows >= 0).reshape(
                    *request.rows.shape, *[1] * (3 if kind == "maps" else 1)
                )
                np.testing.assert_array_equal(tensors[layer].numpy(), expected)


def test_layers_can_be_chosen_and_maps_left_out(built):
    store, _ = built
    batch = next(TokenLoader(store, ["block_3"], maps=False).stream(requests(1)))
    assert batch.tokens == {}
    assert list(batch.cls) == ["block_3"]


def test_buffers_are_reused(built):
    store, _ = built
    loader = TokenLoader(store, depth=2)
    request = Request(np.arange(12).reshape(1, 12))
    addresses = [batch.tokens["block_1"].data_ptr() for batch in loader.stream([request] * 12)]
    assert len(set(addresses)) == 3
    assert next(loader.stream([request])).tokens["block_1"].data_ptr() in addresses


def test_a_stream_can_be_left_early_and_started_again(built):
    store, _ = built
    loader = TokenLoader(store)
    for _ in range(3):
        assert next(loader.stream(requests(10))).tag == 0


def test_a_row_outside_is_an_error_with_its_batch(built):
    store, _ = built
    stream = TokenLoader(store).stream([Request(np.array([[0]])), Request(np.array([[FRAMES + 5]]))])
    next(stream)
    with pytest.raises(StoreError, match="never written"):
        next(stream)
