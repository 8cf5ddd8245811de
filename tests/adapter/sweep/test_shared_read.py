"""One read for all: every trial finds in the union the very frames that it asked for."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.rows import PADDING
from d2st.adapter.sweep.shared_read import Gatherer, Need, SharedReads, TrialSource, merge
from d2st.cache import Batch, Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array, read_array_meta
from d2st.cache.level import ensure_level


@st.composite
def wishes(draw):
    """Rows (B, T_k) of several trials, of the same B clips; padding is a suffix."""
    clips, made = draw(st.integers(1, 4)), []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 5))
        rows = np.full((clips, length), PADDING, dtype=np.int64)
        for clip in range(clips):
            count = draw(st.integers(1, length))
            rows[clip, :count] = clip * 10 + np.array(draw(st.permutations(range(8))))[:count]
        made.append(Request(rows, "tag"))
    return made


@settings(max_examples=60, deadline=None)
@given(wishes())
def test_each_trial_finds_its_frames_in_the_union_and_no_frame_is_in_it_twice(requests):
    union, places = merge(requests)
    flat = union.rows.ravel()
    wanted = {int(row) for request in requests for row in request.rows.ravel() if row != PADDING}
    kept = flat[flat != PADDING]
    assert {int(row) for row in kept} == wanted
    assert len(kept) == len(wanted)
    assert union.tag == "tag"
    for request, place in zip(requests, places, strict=True):
        if place is None:
            assert np.array_equal(request.rows, union.rows)
        else:
            assert np.array_equal(np.where(place == PADDING, PADDING, flat[np.maximum(place, 0)]), request.rows)


def test_padding_of_the_union_is_a_suffix():
    union, _ = merge([Request(np.array([[1, 2, PADDING], [7, 8, 9]])), Request(np.array([[2], [6]]))])
    assert union.rows.tolist() == [[1, 2, PADDING, PADDING], [6, 7, 8, 9]]


def test_gathered_batches_are_those_of_a_loader_of_ones_own(store):
    requests = [Request(np.array([[3, 2, 1], [9, PADDING, PADDING]])), Request(np.array([[2], [8]]))]
    need = Need(("block_3",), True, ())
    union, places = merge(requests)
    gatherer = Gatherer(torch.device("cpu"))
    with TokenLoader(store) as shared, TokenLoader(store, ["block_3"]) as own:
        (read,) = list(shared.stream([union]))
        for request, place in zip(requests, places, strict=True):
            mine = gatherer.take(read, place, need)
            (theirs,) = list(own.stream([request]))
            assert list(mine.tokens) == list(mine.cls) == ["block_3"]
            for ours, other in ((mine.tokens, theirs.tokens), (mine.cls, theirs.cls)):
                assert torch.equal(ours["block_3"], other["block_3"])
            assert torch.equal(mine.mask, theirs.mask)
        assert gatherer.take(read, places[0], Need((), False, ())).tokens == {}


def test_what_is_alike_is_gathered_once():
    batch = Batch({"a": torch.randn(1, 4, 2, 2, 3)}, {"a": torch.randn(1, 4, 3)}, torch.ones(1, 4, dtype=torch.bool), None)
    gatherer, need = Gatherer(torch.device("cpu")), Need(("a",), True, ())
    first = gatherer.take(batch, np.array([[2, 0]]), need)
    again = gatherer.take(batch, np.array([[2, 0]]), need)
    assert again.tokens["a"] is first.tokens["a"]
    other = gatherer.take(batch, np.array([[1, 3]]), need)
    assert torch.equal(other.tokens["a"], batch.tokens["a"][:, [1, 3]])


@pytest.mark.parametrize("in_memory", [False, True])
def test_loaders_follow_the_needs(store, in_memory):
    reads = SharedReads(store, device="cpu", in_memory=in_memory, frames=100)
    one, both = Need(("block_3",), False, ()), Need(("block_1", "block_3"), True, ())
    small = reads.loader([one])
    assert reads.loader([one]) is small
    large = reads.loader([one, both])
    assert large.layers == ("block_1", "block_3")
    assert (reads.loader([one]) is large) == in_memory  # what is kept is never read again
    (batch,) = TrialSource(reads, one).stream([Request(np.array([[0]]))])
    assert batch.tokens == {}
    assert list(batch.cls) == ["block_3"]
    reads.close_unused()
    reads.close()


def test_a_store_that_grows_under_a_sweep_moves_no_row(store, tmp_path):
    """Rows of a view were once counted by the shards at the trial's start, and read by those at the loader's opening."""
    shutil.copytree(store.path, tmp_path / "s")
    grown = Store.open(tmp_path / "s")
    main = grown.tokens.levels[0]
    arrays = [f"{layer}/{kind}" for layer in main.config["layers"] for kind in ("maps", "cls")]
    flip = ensure_level(grown.path, "tokens-flip", {**main.config, "view": {"flip": True}})

    def add(level, shard, fill):
        rows = (
            main.part(0).rows.filter(main.part(0).rows["reason"].is_null()).with_columns(pl.col("start") + shard * SHARD_FRAMES)
        )
        with level.stage(shard) as staged:
            for name in arrays:
                shape, dtype = read_array_meta(main.array(name))
                ensure_array(level.array(name), frame_shape=shape, dtype=dtype, shards=shard + 1, attributes={})
                values = np.full((int(rows["frames"].sum()), *shape), fill, dtype)
                staged.writer(name, frame_dims=len(shape)).append(values)
            assert staged.commit(rows)

    add(flip, 0, 2)
    reads = SharedReads(grown, device="cpu", in_memory=False)
    need = Need(("block_3",), True, ("main", "flip"))
    source = TrialSource(reads, need)
    for level in (main, flip):
        add(level, 1, 7)
    (batch,) = source.stream([Request(np.array([[3 + source.stride]]))])
    assert (batch.tokens["block_3"] == 2).all()
    assert TrialSource(reads, need).stride == source.stride  # trials that begin later share the loader
    reads.close()
