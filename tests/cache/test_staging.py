"""The commit of a shard: all or nothing wherever it is stopped, and a woken zombie can't touch what others committed."""

import os
import shutil

import numpy as np
import polars as pl
import pytest

from d2st.cache import staging
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.errors import StoreError
from d2st.cache.files import link_exclusive
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import StagedShard, ensure_level, open_level
from d2st.cache.reader import ArrayReader
from d2st.cache.staging import discard_staged, staged_shards

ROWS = pl.DataFrame([["s", 0, 2, 2, None, "", "{}"]], schema=LEDGER_SCHEMA, orient="row")


class Stopped(BaseException):
    """As if the process had died: nothing of ours catches it, and nothing cleans up."""


@pytest.fixture
def level(tmp_path):
    made = ensure_level(tmp_path / "s", "tokens", {"layers": ["a", "b"]})
    for name in ("a", "b"):
        ensure_array(made.array(name), frame_shape=(4,), dtype="uint8", shards=1, attributes={})
    return made


def write(level, value, *, cleanup=True):
    shard = StagedShard(level, staging.Staging(level.path, 0))  # without the context, as if the process were gone
    try:
        for name in ("a", "b"):
            shard.writer(name, frame_dims=1).append(np.full((2, 4), value, np.uint8))
        shard.write("moments/0", b"x")
        return shard.commit(ROWS)
    finally:
        if cleanup:
            shard.staging.abandon()


def content(level):
    out = np.empty((2, 4), np.uint8)
    values = []
    for name in ("a", "b"):
        ArrayReader(level.array(name)).read([0, 1], out)
        values.append(int(out[0, 0]))
        assert (out == out[0, 0]).all()
    return values


def snapshot(level):
    return {path.relative_to(level.path): path.read_bytes() for path in level.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", range(24))
def test_killed_at_any_file_operation_the_shard_is_there_whole_or_not_at_all(level, monkeypatch, step):
    whole_level = level
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > step:
                raise Stopped
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "link", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(shutil, "rmtree", lambda *a, **k: None)
        try:
            write(level, 7, cleanup=False)
            finished = True
        except Stopped:
            finished = False
    again = open_level(level.store, level.name)  # rolls forward what was committed
    if 0 in again.committed():
        assert content(again) == [7, 7]
        assert (again.path / "moments/0").read_bytes() == b"x"
    else:
        assert not finished
        for shard, folder in staged_shards(again.path):
            discard_staged(again.path, shard, folder)
        assert write(again, 7)
    assert content(whole_level) == [7, 7]
    for shard, folder in staged_shards(again.path):
        discard_staged(again.path, shard, folder)
    other = ensure_level(level.store.parent / "other", "tokens", {"layers": ["a", "b"]})
    for name in ("a", "b"):
        ensure_array(other.array(name), frame_shape=(4,), dtype="uint8", shards=1, attributes={})
    write(other, 7)
    assert snapshot(again) == snapshot(other)


def test_a_builder_whose_work_was_cleared_away_commits_nothing(level):
    with level.stage(0) as slow:
        slow.writer("a", frame_dims=1).append(np.zeros((2, 4), np.uint8))
        ((shard, folder),) = staged_shards(level.path)
        discard_staged(level.path, shard, folder)
        slow.writer("b", frame_dims=1).append(np.zeros((2, 4), np.uint8))  # makes its folder anew
        assert not slow.commit(ROWS)
    assert level.committed() == set()
    assert write(level, 3)
    assert content(level) == [3, 3]


def test_clearing_away_finishes_what_was_committed(level, monkeypatch):
    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_move_into_place", stop)
        with pytest.raises(Stopped):
            write(level, 5, cleanup=False)
    assert level.committed() == {0}
    ((shard, folder),) = staged_shards(level.path)
    discard_staged(level.path, shard, folder)
    assert content(level) == [5, 5]
    assert not staged_shards(level.path)


def test_an_interrupt_right_after_the_link_loses_nothing(level, monkeypatch):
    moves = iter([Stopped])
    move = staging._move_into_place

    def stop_once(*args):
        for error in moves:
            raise error
        move(*args)

    monkeypatch.setattr(staging, "_move_into_place", stop_once)
    with pytest.raises(Stopped):
        write(level, 6)
    assert content(level) == [6, 6]
    assert not staged_shards(level.path)


def test_replacing_is_all_or_nothing_too(level, monkeypatch):
    write(level, 1)
    with level.stage(0) as staged:
        for name in ("a", "b"):
            staged.writer(name, frame_dims=1).append(np.full((2, 4), 2, np.uint8))
        assert staged.commit(ROWS.with_columns(detail=pl.lit("new")), replace=True)
    assert content(level) == [2, 2]
    assert level.part(0).rows["detail"].to_list() == ["new"]


def test_a_full_disk_says_so_and_leaves_no_trace(level, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = snapshot(level)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left") as caught:
            write(level, 1)
    assert "everything finished so far is kept" in caught.value.fix
    assert snapshot(level) == before


def test_without_hard_links_the_second_still_loses(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"1")
    assert link_exclusive(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"2")
    assert not link_exclusive(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1"


def test_slots_can_stay_empty(level):
    with level.stage(0) as staged:
        writer = staged.writer("a", frame_dims=1)
        writer.append(np.ones((1, 4), np.uint8))
        writer.skip(2)
        writer.append(np.full((1, 4), 4, np.uint8))
        staged.commit(ROWS)
    out = np.empty((1, 4), np.uint8)
    ArrayReader(level.array("a")).read([3], out)
    assert (out == 4).all()

    with pytest.raises(StoreError, match="never written"):
        ArrayReader(level.array("a")).read([1], out)
    with pytest.raises(StoreError, match=f"holds {SHARD_FRAMES} frames"), level.stage(1) as other:
        other.writer("a", frame_dims=1).skip(SHARD_FRAMES + 1)
