"""Long videos in windows: the frames that the build's sampling would take, whatever happens in between, and as they come."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache.errors import ConfigError, MediaError
from d2st.pipeline.media import Job, MediaEnd, MediaWindow, read_media, read_windows, sample_indices
from d2st.pipeline.media.stretch import Stretch
from d2st.pipeline.media.windows import window_edges


def windows_of(path, *, frames=6, sampling="even", window_s=2.0, kind="video"):
    *windows, end = read_windows(path, kind, frames=frames, sampling=sampling, window_s=window_s)
    assert isinstance(end, MediaEnd)
    assert all(isinstance(window, MediaWindow) for window in windows)
    return windows, end


@pytest.fixture(scope="module")
def long_video(coded, tmp_path_factory) -> Path:
    """230 coded frames at 25 fps, 9.2 s, its index at the front."""
    options = {"x264-params": "keyint=12:bframes=3:threads=1", "crf": "12", "preset": "ultrafast"}
    plain = coded.write(tmp_path_factory.mktemp("long") / "plain.mp4", coded.frames(230), options=options)
    return _faststart(plain)


def _faststart(path: Path) -> Path:
    """The same file with its index before its pictures, so that a cut leaves a file that opens."""
    import av

    target = path.with_name("long.mp4")
    with av.open(str(path)) as reader, av.open(str(target), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return target


@pytest.mark.parametrize("sampling", ["even", "clip"])
def test_each_window_gives_the_frames_that_sampling_takes_of_it(long_video, coded, sampling):
    windows, end = windows_of(long_video, sampling=sampling)
    assert [(w.start_s, w.end_s) for w in windows] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, pytest.approx(9.2))]
    assert end == MediaEnd(None, pytest.approx(9.2), 230, windowed=True)
    for window, count in zip(windows, [50, 50, 50, 50, 30], strict=True):
        first = round(window.start_s * 25)
        frames = window.frames
        assert frames.info.frame_count == count
        assert list(frames.indices) == [first + index for index in sample_indices(count, 6, sampling)]
        assert [coded.index(image) for image in frames.images] == list(frames.indices)
        assert frames.timestamps_s == pytest.approx([index / 25 for index in frames.indices])


@pytest.mark.parametrize("window_s", [None, 4.6, 60.0])
def test_a_short_video_is_one_clip_as_the_cache_has_it(long_video, window_s):
    (window,), end = windows_of(long_video, window_s=window_s)
    here = read_media(long_video, "video", frames=6, sampling="even")
    assert (window.frames.info, window.frames.indices, window.frames.timestamps_s) == (
        here.info,
        here.indices,
        here.timestamps_s,
    )
    np.testing.assert_array_equal(np.stack(window.frames.images), np.stack(here.images))
    assert (window.start_s, window.end_s) == (0.0, end.duration_s)
    assert end == MediaEnd(None, pytest.approx(9.2), 230, windowed=False)


def test_an_image_and_a_folder_are_never_cut(tmp_path):
    from PIL import Image

    for k in range(60):
        Image.fromarray(np.full((8, 8, 3), k, np.uint8)).save(tmp_path / f"{k}.png")
    (window,), end = windows_of(tmp_path, kind="frames", window_s=0.1)
    assert window.frames.indices == (5, 15, 25, 35, 45, 55)
    assert (end.duration_s, end.frames, end.windowed) == (60 / 25, 60, False)
    (window,), end = windows_of(tmp_path / "3.png", kind="image", window_s=0.1)
    assert (window.start_s, window.end_s, end.duration_s) == (0.0, 0.0, None)


@pytest.mark.parametrize("share", [0.35, 0.8])
def test_a_file_that_is_cut_off_keeps_its_windows_and_says_where(long_video, coded, tmp_path, share):
    data = long_video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(share * len(data))])
    windows, end = windows_of(tmp_path / "cut.mp4")
    assert end.error.reason == "truncated"
    assert "cut.mp4: the file is cut off after" in str(end.error)
    assert abs(end.duration_s - share * 9.2) < 2.5
    assert windows[-1].end_s == end.duration_s
    assert end.windowed == (share > 0.5)  # what is left of the other is no longer than a clip
    for window in windows[:-1]:
        assert [coded.index(image) for image in window.frames.images] == list(window.frames.indices)
        assert len(window.frames.images) == 6


@pytest.mark.parametrize("window_s", [None, 1.0])
@pytest.mark.parametrize("kind", ["mkv", "flv"])
def test_what_is_cut_off_says_where_and_longer_sound_is_no_cut(coded, tmp_path, kind, window_s):
    path = coded.write(tmp_path / f"whole.{kind}", coded.frames(230))
    data = path.read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    _, end = windows_of(tmp_path / f"cut.{kind}", window_s=window_s)
    assert end.error.reason == "truncated"
    assert f"the file is cut off after {end.duration_s:.1f} of 9." in str(end.error)
    longer = _with_sound(path, tmp_path / "sound.mkv", sound_s=14)
    _, end = windows_of(longer, window_s=window_s)
    assert (end.error, end.frames) == (None, 230)


@pytest.mark.parametrize("window_s", [None, 1.0])
def test_a_damaged_frame_under_longer_sound_is_no_cut(coded, tmp_path, window_s):
    path = _with_sound(coded.write(tmp_path / "whole.mp4", coded.frames(230)), tmp_path / "sound.mp4", sound_s=14)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.is_keyframe][8]
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    windows, end = windows_of(path, window_s=window_s)
    assert end.error is None
    assert sum(window.frames.info.frames_lost for window in windows) >= 1
    assert 210 < end.frames < 230


def _with_sound(source: Path, target: Path, *, sound_s: int) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w") as made:
        picture = made.add_stream_from_template(read.streams.video[0])
        sound = made.add_stream("pcm_s16le", rate=8000)
        for packet in read.demux(video=0):
            if packet.size:  # not the mark of the end
                packet.stream = picture
                made.mux(packet)
        for second in range(sound_s):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 8000, 8000 * second
            made.mux(sound.encode(silence))
        made.mux(sound.encode(None))
    return target


def test_a_hole_costs_its_own_windows_alone(long_video, coded, tmp_path):
    data = bytearray(long_video.read_bytes())
    low, high = int(0.4 * len(data)), int(0.7 * len(data))
    data[low:high] = bytes(high - low)
    (tmp_path / "hole.mp4").write_bytes(data)
    windows, end = windows_of(tmp_path / "hole.mp4", window_s=1.0)
    assert end.error is None
    lost = [w.frames for w in windows if isinstance(w.frames, MediaError)]
    assert lost
    assert all(error.reason == "decode_failed" and "no frame from" in str(error) for error in lost)
    missing = sum(w.frames.info.frames_lost for w in windows if not isinstance(w.frames, MediaError)) + 25 * len(lost)
    assert missing == pytest.approx(230 - end.frames, abs=8)
    last = windows[-1].frames
    assert last.timestamps_s[-1] > 8.5
    assert [coded.index(image) for image in windows[0].frames.images] == list(windows[0].frames.indices)


def test_nothing_that_is_no_video_raises(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    for path in (tmp_path / "a.mp4", tmp_path / "none.mp4", tmp_path):
        (end,) = read_windows(path, "video", frames=6, sampling="even", window_s=2.0)
        assert end.error.reason in ("not_media", "missing")
        assert (end.frames, end.duration_s, end.windowed) == (0, None, False)


def test_a_pause_gives_no_windows_and_times_stay_those_of_the_file(coded, tmp_path):
    """50 frames, a pause of 20 seconds, 50 frames."""
    path = coded.write(tmp_path / "pause.mp4", coded.frames(100), pts=lambda k: k if k < 50 else k + 500)
    windows, end = windows_of(path, window_s=2.0)
    assert [round(w.start_s, 3) for w in windows] == [0, 22]
    assert windows[1].frames.indices[0] == 54
    assert windows[1].frames.timestamps_s[0] == pytest.approx(554 / 25)
    assert end.frames == 100


@given(st.floats(0.5, 9000), st.floats(0.5, 60))
def test_windows_tile_the_video(span_s, window_s):
    edges = window_edges(span_s, window_s)
    lengths = np.diff(edges)
    assert edges[0] == 0
    assert edges[-1] == span_s
    assert (lengths[:-1] <= window_s + 1e-6).all()
    assert 0 < lengths[-1] <= 1.5 * window_s + 1e-6
    assert len(lengths) == 1 or lengths[-1] >= 0.5 * window_s - 1e-6


@dataclass
class Still:
    """A decoded frame that holds nothing but its number."""

    number: int
    rotation: int = 0

    def to_ndarray(self, format):
        return np.full((1, 1, 3), self.number % 256, np.uint8)


def _windows_of_times(times_s, *, frames, sampling, window_s, fps):
    probe = SimpleNamespace(fps=fps, codec="", pix_fmt="")
    stretch = Stretch("a", probe, window_edges(times_s[-1] + 1 / fps, window_s), window_s, frames=frames, sampling=sampling)
    windows = [w for index, at_s in enumerate(times_s) for w in stretch.add(Still(index), index, at_s)]
    return [*windows, *stretch.close(times_s[-1] + 1 / fps)]


@settings(max_examples=60)
@given(
    st.sampled_from([5, 24, 25, 30, 60]),
    st.integers(1, 6),
    st.integers(1, 400),
    st.integers(1, 16),
    st.sampled_from(["even", "clip"]),
)
def test_at_a_steady_rate_the_frames_are_those_of_the_builds_sampling(fps, window_s, count, frames, sampling):
    windows = _windows_of_times([k / fps for k in range(count)], frames=frames, sampling=sampling, window_s=window_s, fps=fps)
    first = 0
    for window in windows:
        found = window.frames
        assert list(found.indices) == [first + k for k in sample_indices(found.info.frame_count, frames, sampling)]
        first += found.info.frame_count
    assert first == count


@settings(max_examples=60)
@given(st.lists(st.floats(0.001, 3), min_size=1, max_size=80), st.integers(1, 8), st.sampled_from(["even", "clip"]))
def test_at_any_rate_each_frame_is_taken_once_at_most_and_lies_in_its_window(gaps_s, frames, sampling):
    times_s = list(np.cumsum([0.0, *gaps_s]))
    windows = _windows_of_times(times_s, frames=frames, sampling=sampling, window_s=2.0, fps=10)
    taken = [index for window in windows for index in window.frames.indices]
    assert taken == sorted(set(taken))
    assert sum(window.frames.info.frame_count for window in windows) == len(times_s)
    for window in windows:
        assert 1 <= len(window.frames.images) <= frames
        assert all(window.start_s - 1e-3 <= at_s <= window.end_s for at_s in window.frames.timestamps_s)


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_window_that_makes_no_sense_is_refused(window_s):
    with pytest.raises(ConfigError, match="windows of"):
        Job("k", "a", "video", 6, "even", window_s=window_s)
