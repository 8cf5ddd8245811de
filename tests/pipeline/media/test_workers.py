"""The pool in real child processes: what one file does to its decoder is that file's matter alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from d2st.cache.errors import MediaError, RunError
from d2st.pipeline.media import DecodePool, Frames, Job, read_media

READER = '''
"""Stands in for read_media: obeys the name of the file."""
import os, signal, sys, time
import numpy as np
from d2st.cache.errors import MediaError
from d2st.pipeline.media.types import Frames, MediaInfo

def info(codec=""):
    return MediaInfo("stand-in", 1, None, 4, 4, 0, codec, "", 0)

def picture(value=0, size=4):
    return np.full((size, size, 3), value, np.uint8)

def read(path, kind, *, frames, sampling, files, on_duration):
    if path.startswith("crash"):
        os.kill(os.getpid(), signal.SIGKILL)
    if path.startswith("abort"):
        os.abort()
    if path.startswith("hang"):
        time.sleep(600)
    if path.startswith("late crash"):
        import threading
        threading.Timer(0.15, os._exit, [9]).start()
    if path.startswith("long"):
        on_duration(float(path.split()[1]))
        time.sleep(float(path.split()[2]))
    if path.startswith("fault"):
        raise KeyError("a fault of the reader")
    if path.startswith("chatter"):
        os.write(1, b"from C, to stdout"); os.write(2, b"from C, to stderr"); print("from Python", flush=True)
    if path.startswith("slow"):
        time.sleep(float(path.split()[1]))
    if path.startswith("big"):
        return Frames(tuple(picture(k, 1500) for k in range(frames)), tuple(range(frames)), (0.0,) * frames, info())
    if path.startswith("modules"):
        return Frames((picture(),), (0,), (0.0,), info(" ".join(sys.modules)))
    return Frames((picture(os.getpid() % 251),), (0,), (0.0,), info(f"pid {os.getpid()}"))
'''


def jobs(*names):
    return [Job(f"key {position}", str(name), "video", 6, "even") for position, name in enumerate(names)]


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Make a pool whose children call the stand-in reader."""
    (tmp_path / "stand_in_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda workers=2, timeout_s=30.0: DecodePool(workers, base_timeout_s=timeout_s, reader="stand_in_reader:read")


def reasons(results):
    return [result.reason if isinstance(result, MediaError) else "ok" for _, result in results]


def test_real_files_come_back_as_read_in_this_process_and_in_order(coded, h264, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    names = [h264, tmp_path / "a.mp4", tmp_path / "none.mp4", b"\xff\xfe.mp4".decode("utf-8", "surrogateescape"), h264]
    asked = jobs(*names)
    with DecodePool(2) as pool:
        results = list(pool.map(iter(asked)))
    assert [job for job, _ in results] == asked
    assert reasons(results) == ["ok", "not_media", "missing", "missing", "ok"]
    here = read_media(h264, "video", frames=6, sampling="even")
    for _, frames in (results[0], results[4]):
        assert (frames.info, frames.indices, frames.timestamps_s) == (here.info, here.indices, here.timestamps_s)
        for one, other in zip(frames.images, here.images, strict=True):
            np.testing.assert_array_equal(one, other)
    assert "a.mp4: the content" in str(results[1][1])


def test_a_crash_costs_one_file_and_one_child(pool):
    with pool() as decode:
        results = list(decode.map(jobs("a", "crash", "b", "abort", "c", "crash", "d")))
    assert reasons(results) == ["ok", "decoder_crashed", "ok", "decoder_crashed", "ok", "decoder_crashed", "ok"]
    assert "crash: the decoding process died" in str(results[1][1])


def test_a_hang_ends_at_the_deadline_and_others_go_on(pool):
    start = time.monotonic()
    with pool(timeout_s=1.0) as decode:
        results = list(decode.map(jobs("hang", "a", "b", "c", "d")))
    assert reasons(results) == ["timeout", "ok", "ok", "ok", "ok"]
    assert time.monotonic() - start < 20
    assert "hang: decoding took longer" in str(results[0][1])


def test_a_long_video_has_more_time(pool):
    with pool(timeout_s=0.7) as decode:
        assert reasons(decode.map(jobs("long 100 1.2", "long 0 30"))) == ["ok", "timeout"]


def test_the_next_file_is_not_blamed_for_a_late_crash(pool):
    with pool(workers=1) as decode:
        results = list(decode.map(jobs("late crash", "slow 0.5", "a")))
    assert reasons(results) == ["ok", "ok", "ok"]


def test_a_fault_of_the_reader_is_a_result_and_the_child_lives_on(pool):
    with pool(workers=1) as decode:
        (_, first), (_, fault), (_, last) = decode.map(jobs("a", "fault", "b"))
    assert fault.reason == "decode_failed"
    assert "KeyError" in str(fault)
    assert first.info == last.info  # the same process


def test_what_libraries_print_does_not_reach_anyone(pool, capfd):
    with pool(workers=1) as decode:
        assert reasons(decode.map(jobs("chatter", "a"))) == ["ok", "ok"]
    assert capfd.readouterr() == ("", "")


def test_large_frames_arrive_whole(pool):
    with pool(workers=2) as decode:
        for _, frames in decode.map(jobs("big", "big", "big")):
            assert [int(image[0, 0, 0]) for image in frames.images] == list(range(6))
            assert all((image == image[0, 0, 0]).all() and image.shape == (1500, 1500, 3) for image in frames.images)


def test_jobs_are_read_only_a_little_ahead(pool):
    drawn = []

    def source():
        for position in range(40):
            drawn.append(position)
            yield Job(str(position), "a", "video", 6, "even")

    with pool(workers=2) as decode:
        results = decode.map(source())
        for taken in range(1, 6):
            next(results)
            assert len(drawn) <= taken + 2 * decode.workers
        results.close()
        assert decode.read(Job("k", Path("a"), "video", 6, "even")).images  # a map that was given up leaves a working pool


def test_waiting_frames_are_bounded_in_bytes(pool, monkeypatch):
    monkeypatch.setattr("d2st.pipeline.media.workers.MAX_HELD_BYTES", 1)
    with pool(workers=2) as decode:
        assert len(list(decode.map(jobs(*["big"] * 6)))) == 6


def test_children_import_no_torch_and_no_polars(pool):
    (job,) = jobs("modules")
    with pool(workers=1) as decode:
        loaded = set(decode.read(job).info.codec.split())
    assert not loaded & {"torch", "polars", "zarr", "cv2", "open_clip", "matplotlib", "pandas", "multiprocessing.spawn"}
    check = "import sys, d2st.pipeline.media.read as r; r.load_decord(); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split())
    assert {"av", "PIL", "numpy"} <= loaded
    assert not loaded & {"torch", "polars", "zarr", "cv2", "open_clip", "matplotlib", "pandas"}


def test_read_raises_the_files_error(pool):
    with pool(workers=1) as decode, pytest.raises(MediaError, match="crash") as caught:
        decode.read(jobs("crash")[0])
    assert caught.value.reason == "decoder_crashed"


def test_a_child_that_can_not_start_is_a_clear_error_and_no_loop(pool, capfd):
    with DecodePool(2, reader="no_such_module:read") as decode, pytest.raises(RunError, match="could not start"):
        list(decode.map(jobs("a", "b", "c")))
    assert "no_such_module" in capfd.readouterr().err


def test_leaving_early_ends_hanging_children_at_once(pool):
    start = time.monotonic()
    with pool(workers=2, timeout_s=300) as decode:
        results = decode.map(jobs("a", "hang", "hang"))
        pid = int(next(results)[1].info.codec.split()[1])
    assert time.monotonic() - start < 20
    assert gone(pid)
    with pytest.raises(RuntimeError, match="closed"):
        decode.read(jobs("a")[0])


@pytest.mark.parametrize("how", ["-c", "stdin", "file without a guard"])
def test_any_kind_of_script_can_use_a_pool(how, h264, tmp_path):
    """multiprocessing's spawn would run the script again in each child."""
    script = (
        "from d2st.pipeline.media import DecodePool, Job\n"
        "print('started', flush=True)\n"
        "with DecodePool(2) as pool:\n"
        f"    for _, frames in pool.map([Job('k', {str(h264)!r}, 'video', 6, 'even')] * 2):\n"
        "        print(len(frames.images), flush=True)\n"
    )
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "elsewhere").mkdir()
    if how == "file without a guard":  # in the other cases Python itself puts the working directory first
        stray = "raise SystemExit('a stray file in the working directory was imported')"
        (tmp_path / "elsewhere" / "av.py").write_text(stray)
    arguments = {"-c": ["-c", script], "stdin": ["-"], "file without a guard": [str(tmp_path / "script.py")]}[how]
    done = subprocess.run(
        [sys.executable, *arguments], input=script, capture_output=True, text=True, timeout=60, cwd=tmp_path / "elsewhere"
    )
    assert (done.stdout.split(), done.stderr) == (["started", "6", "6"], "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_children_end_when_their_parent_is_killed_even_in_a_decoder_that_hangs(tmp_path):
    (tmp_path / "stand_in_reader.py").write_text(READER)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from d2st.pipeline.media import DecodePool, Job\n"
        "pool = DecodePool(1, reader='stand_in_reader:read')\n"
        "print(pool.read(Job('k', 'a', 'video', 6, 'even')).info.codec.split()[1], flush=True)\n"
        "pool.read(Job('k', 'hang', 'video', 6, 'even'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    assert gone(pid)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_ctrl_c_ends_everything_without_a_trace(tmp_path):
    (tmp_path / "stand_in_reader.py").write_text(READER)
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from d2st.pipeline.media import DecodePool, Job\n"
        "try:\n"
        "    with DecodePool(2, reader='stand_in_reader:read') as pool:\n"
        "        for _, frames in pool.map([Job('k', name, 'video', 6, 'even') for name in ('a', 'hang', 'hang')]):\n"
        "            print(frames.info.codec.split()[1], flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        os.killpg(parent.pid, 2)  # as a terminal does: to the whole group
        assert parent.wait(timeout=20) == 130
        assert parent.stderr.read() == ""
    assert gone(pid)


def gone(pid, within_s=10.0):
    """Whether the process ends in time (a zombie of a killed parent counts as ended)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_mutated_files_never_break_the_pool(h264, coded, tmp_path):
    """30 files with flipped, zeroed, cut and doubled bytes: each gives frames or a reason."""
    webm = coded.write(tmp_path / "a.webm", coded.frames(20), codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    avi = coded.write(tmp_path / "a.avi", coded.frames(20), codec="mpeg4", options={"b": "1M"}, b_frames=2)
    random = np.random.default_rng(0)
    names = []
    for number in range(30):
        source = (h264, webm, avi)[number % 3]
        data = bytearray(source.read_bytes())
        for place in random.integers(0, len(data), random.integers(1, 30)):
            data[place] = random.integers(0, 256)
        cut = int(random.integers(0, len(data)))
        if number % 5 == 0:
            data = data[:cut]
        if number % 7 == 0:
            data[cut:cut] = data[:cut]
        names.append(tmp_path / f"{number}{source.suffix}")
        names[-1].write_bytes(data)
    asked = jobs(*names, h264)
    with DecodePool(2, base_timeout_s=20) as pool:
        results = list(pool.map(asked))
    assert [job for job, _ in results] == asked
    for job, result in results:
        if isinstance(result, Frames):
            assert 0 < len(result.images) <= 6
            assert len(result.images) == len(result.indices) == len(result.timestamps_s)
        else:
            assert job.path in str(result)
    assert reasons(results)[-1] == "ok"
    assert reasons(results).count("ok") > 10
