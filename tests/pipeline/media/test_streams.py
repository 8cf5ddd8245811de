"""Windows through the pool: what its child had read before it died is kept, and nobody reads further ahead than he is asked."""

import time

import pytest

from d2st.pipeline.media import DecodePool, Job, MediaEnd, MediaWindow

READER = '''
"""Stands in for read_windows: the name of the file says what happens after how many windows."""
import os, signal, time
import numpy as np
from d2st.pipeline.media.types import Frames, MediaEnd, MediaInfo, MediaWindow

def read(path, kind, *, frames, sampling, files, on_duration, window_s):
    what, count, pause_s = path.split()
    for k in range(int(count)):
        time.sleep(float(pause_s))
        open("windows", "a").write("x")
        image = np.full((300, 300, 3), k % 256, np.uint8)
        info = MediaInfo("stand-in", 5, None, 300, 300, 0, "", str(os.getpid()), 0)
        yield MediaWindow(Frames((image,), (k,), (k * window_s,), info), k * window_s, (k + 1) * window_s)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    if what == "fault":
        raise KeyError("a fault of the reader")
    yield MediaEnd(None, int(count) * window_s, 5 * int(count), windowed=True)
'''


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """One child that calls the stand-in, in a folder where it notes what it has read."""
    (tmp_path / "stand_in_windows.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with DecodePool(1, base_timeout_s=1.0, reader="stand_in_windows:read") as pool:
        yield pool


def ask(pool, name, window_s=0.01):
    return pool.stream(Job("", name, "video", 6, "even", window_s=window_s))


def take(reading):
    end = time.monotonic() + 20
    while not reading.ready():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.005)
    return reading.take()


def everything(reading):
    parts = [take(reading)]
    while isinstance(parts[-1], MediaWindow):
        parts.append(take(reading))
    return parts[:-1], parts[-1]


def test_windows_before_a_crash_a_fault_or_a_hang_are_kept(pool):
    asked = [ask(pool, name) for name in ("good 3 0", "crash 4 0", "fault 2 0", "hang 2 0", "good 2 0.6", "good 1 0")]
    results = [everything(reading) for reading in asked]
    assert [len(windows) for windows, _ in results] == [3, 4, 2, 2, 2, 1]
    assert [end.error.reason if end.error else None for _, end in results] == [
        None, "decoder_crashed", "decode_failed", "timeout", None, None,
    ]  # fmt: skip
    for windows, _ in results:
        assert [int(window.frames.images[0][0, 0, 0]) for window in windows] == list(range(len(windows)))
    # 2 x 0.6 s are more than the second that each window has
    assert results[4][1] == MediaEnd(None, pytest.approx(0.02), 10, windowed=True)
    crashed = results[1][1]
    assert (crashed.frames, crashed.duration_s, crashed.windowed) == (20, pytest.approx(0.04), True)
    assert results[0][0][0].frames.info.pix_fmt != results[2][0][0].frames.info.pix_fmt  # another child


def test_a_slow_taker_makes_the_child_wait_and_that_is_not_its_fault(pool, tmp_path):
    reading = ask(pool, "good 30 0", window_s=1e-6)
    first = take(reading)
    time.sleep(1.3)  # more than the deadline
    assert len((tmp_path / "windows").read_text()) <= 6
    windows, end = everything(reading)
    assert [first.start_s, *(w.start_s for w in windows)] == pytest.approx([k * 1e-6 for k in range(30)])
    assert end.error is None


def test_files_that_wait_for_their_turn_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("d2st.pipeline.media.workers.MAX_HELD_BYTES", 2)
    (tmp_path / "stand_in_windows.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with DecodePool(2, reader="stand_in_windows:read") as pool:
        first, second = (ask(pool, "good 3 0") for _ in range(2))
        while not first.ready():
            time.sleep(0.01)
        time.sleep(0.3)
        assert not second.ready()  # not even one window: it is not its turn
        for reading in (first, second):
            assert len(everything(reading)[0]) == 3
        take(ask(pool, "good 1000 0"))
        begin = time.monotonic()
    assert time.monotonic() - begin < 10  # closing ends a child that waits for its taker


def test_a_file_that_nobody_wants_any_more_does_not_block_the_next(pool):
    reading = ask(pool, "good 1000 0")
    take(reading)
    reading.cancel()
    assert everything(ask(pool, "good 2 0"))[1].error is None
