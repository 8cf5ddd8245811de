"""Frames kept in memory: the same bytes, each read from the disk once, refused where they do not fit."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache import Request, TokenLoader, free_memory
from d2st.cache.errors import ConfigError, StoreError
from d2st.cache.in_memory import DeviceFrames, KeepingReader

SHAPE = (2, 3)
ROWS = 40


class CountingReader:
    """Stands for the disk; row r holds r everywhere, row 13 is damaged."""

    frame_shape, dtype, frame_bytes = SHAPE, np.dtype("int8"), 6

    def __init__(self):
        self.read_rows = []
        self.closed = False

    def read(self, rows, out):
        if 13 in rows:
            raise StoreError("row 13 is damaged")
        self.read_rows += rows.tolist()
        out[:] = rows[:, None, None]

    def close(self):
        self.closed = True


batches = st.lists(st.lists(st.integers(0, ROWS - 1).filter(lambda row: row != 13), max_size=12), max_size=8)


@settings(max_examples=100, deadline=None)
@given(batches=batches, frames=st.integers(0, ROWS))
def test_ram_gives_the_same_frames_and_reads_each_once(batches, frames):
    disk = CountingReader()
    reader = KeepingReader(disk, rows=ROWS, frames=frames)
    for rows in map(np.array, batches):
        rows = rows.astype(np.int64)
        out = np.full((len(rows), *SHAPE), 77, np.int8)
        reader.read(rows, out)
        np.testing.assert_array_equal(out, np.broadcast_to(rows[:, None, None], out.shape))
    if frames == ROWS and all(len(set(rows)) == len(rows) for rows in batches):
        assert len(disk.read_rows) == len(set(disk.read_rows))


@settings(max_examples=100, deadline=None)
@given(batches=batches, frames=st.integers(0, ROWS), late=st.integers(0, 3))
def test_a_device_gives_the_same_frames(batches, frames, late):
    """`late`: that many batches are begun before the first is gathered, as the loader does."""
    disk = CountingReader()
    kept = DeviceFrames({"a": disk}, rows=ROWS, frames=frames, device=torch.device("cpu"))
    waiting = []
    for rows in [*batches, *[None] * late]:
        if rows is not None:
            rows = np.array(rows + [-1] * (len(rows) % 3), np.int64)
            brought = kept.missing(rows)
            host = np.empty((len(brought), *SHAPE), np.int8)
            disk.read(brought, host)
            waiting.append((rows, brought, torch.from_numpy(host)))
        if len(waiting) > late or (rows is None and waiting):
            rows, brought, host = waiting.pop(0)
            out = torch.full((len(rows), *SHAPE), 77, dtype=torch.int8)
            kept.gather(rows, brought, {"a": host}, {"a": out})
            expected = np.where(rows < 0, 0, rows)
            np.testing.assert_array_equal(out.numpy(), np.broadcast_to(expected[:, None, None], out.shape))
    if frames == ROWS and not late:
        assert len(disk.read_rows) == len(set(disk.read_rows))


def test_a_failed_read_is_tried_again_and_closing_forgets():
    disk = CountingReader()
    reader = KeepingReader(disk, rows=ROWS, frames=ROWS)
    out = np.empty((3, *SHAPE), np.int8)
    for _ in range(2):
        with pytest.raises(StoreError):
            reader.read(np.array([12, 13, 14]), out)
    reader.read(np.array([12, 14, 15]), out)
    assert out[:, 0, 0].tolist() == [12, 14, 15]
    reader.close()
    assert disk.closed
    reader.read(np.array([12, 14, 15]), out)
    assert disk.read_rows == [12, 14, 15] * 2


def test_many_threads_see_whole_frames():
    reader = KeepingReader(CountingReader(), rows=ROWS, frames=ROWS)
    wrong = []

    def reading(seed):
        generator = np.random.default_rng(seed)
        for _ in range(300):
            rows = generator.integers(14, ROWS, size=20)
            out = np.empty((20, *SHAPE), np.int8)
            reader.read(rows, out)
            if not (out == rows[:, None, None]).all():
                wrong.append(rows)

    threads = [threading.Thread(target=reading, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_disk_is_not_needed_after_the_first_epoch(tmp_path, token_store, dtype):
    built = token_store(tmp_path / "s", dtype, 60)
    rows = np.arange(60).reshape(10, 6)
    with TokenLoader(built.store, in_memory=True) as loader:
        first = [batch.tokens["block_1"].clone() for batch in loader.stream([Request(rows[:5]), Request(rows[5:])])]
        for file in built.store.path.rglob("c/0/**/0"):
            if file.is_file():
                file.write_bytes(b"")
        again = [batch.tokens["block_1"].clone() for batch in loader.stream([Request(rows[:5]), Request(rows[5:])])]
    assert all(map(torch.equal, first, again))


def test_what_does_not_fit_is_refused_with_figures(tmp_path, token_store, monkeypatch):
    built = token_store(tmp_path / "s", "int8", 60)
    frame_bytes = 2 * (24 + 12 + 8)  # two layers of maps, scales and CLS
    monkeypatch.setattr(free_memory, "free_ram", lambda: 60 * frame_bytes)
    with pytest.raises(ConfigError, match=r"60 frames of 2 layers.*RAM are free"):
        TokenLoader(built.store, in_memory=True)
    TokenLoader(built.store, in_memory=True, frames=50).close()


def test_free_ram_obeys_the_control_group(tmp_path):
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "proc").write_text("0::/a/b\n")
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000\n")
    (group.parent / "memory.current").write_text("700\n")
    (group.parent / "memory.stat").write_text("anon 100\ninactive_file 50\nactive_file 5\n")
    assert list(free_memory._group_free(tmp_path, tmp_path / "proc")) == [355]
    assert 0 < free_memory.free_ram() < 2**50
