"""The right frames from every container, for both samplings: each frame carries its number."""

import itertools

import numpy as np
import pytest

from d2st.pipeline.media import read_media, sample_indices
from d2st.pipeline.media.decord_reader import load_decord

COUNT = 40
VPX = {"crf": "8", "b:v": "1M", "deadline": "realtime", "cpu-used": "8", "g": "12"}
X265 = {"x265-params": "keyint=12:bframes=2:log-level=none:pools=none:frame-threads=1", "crf": "14", "preset": "ultrafast"}
# name -> reader expected where decord is installed, arguments of coded.write
CASES = {
    "h264_b.mp4": ("decord", {}),
    "h264.mov": ("decord", {}),
    "h264.mkv": ("decord", {}),
    "h264.flv": ("pyav", {"options": {"x264-params": "keyint=2:min-keyint=1:bframes=1:b-adapt=0:threads=1", "crf": "12"}}),
    "h264_intra_refresh.mp4": (
        "pyav",
        {"options": {"x264-params": "keyint=12:bframes=0:intra-refresh=1:threads=1", "crf": "12"}},
    ),
    "h264_interlaced.mkv": ("pyav", {"options": {"x264-params": "keyint=12:bframes=2:tff=1:threads=1", "crf": "12"}}),
    "h264_open_gop.mp4": ("pyav", {"options": {"x264-params": "keyint=12:bframes=3:open-gop=1:threads=1", "crf": "12"}}),
    "hevc.mp4": ("decord", {"codec": "libx265", "options": X265 | {"x265-params": X265["x265-params"] + ":open-gop=0"}}),
    "hevc_open_gop.mp4": ("pyav", {"codec": "libx265", "options": X265}),
    "vp8.webm": ("decord", {"codec": "libvpx", "options": VPX}),
    "vp9.webm": ("decord", {"codec": "libvpx-vp9", "options": VPX}),
    "mpeg4_b.avi": ("pyav", {"codec": "mpeg4", "options": {"q": "2", "b": "2M", "g": "12"}, "b_frames": 2}),
    "wmv2.wmv": ("pyav", {"codec": "wmv2", "options": {"b": "2M", "g": "12"}}),
    "h264.ts": ("pyav", {}),
    "mpeg2.mpg": ("pyav", {"codec": "mpeg2video", "options": {"b": "2M", "g": "12"}, "b_frames": 2}),
    "colour.gif": ("pyav", {"codec": "gif", "pix_fmt": "rgb8"}),
    "av1.mkv": ("pyav", {"codec": "libsvtav1", "options": {"preset": "12", "crf": "20", "svtav1-params": "lp=1"}}),
}


@pytest.fixture(scope="module")
def files(coded, tmp_path_factory):
    """Makes each file once, for both samplings."""
    folder = tmp_path_factory.mktemp("containers")

    def make(name):
        path = folder / name
        if not path.exists():
            coded.write(path, coded.frames(COUNT), **CASES[name][1])
        return path

    return make


def assert_right(coded, got, count, frames, sampling, first=0):
    expected = sample_indices(count, frames, sampling)
    assert list(got.indices) == expected
    assert got.info.frame_count == count
    assert [coded.index(image) - first for image in got.images] == expected


@pytest.mark.parametrize(("name", "sampling"), list(itertools.product(CASES, ["even", "clip"])))
def test_the_frames_are_the_right_ones(name, sampling, files, coded):
    got = read_media(files(name), "video", frames=6, sampling=sampling)
    assert_right(coded, got, COUNT, 6, sampling)
    assert got.info.decoder.startswith(CASES[name][0] if load_decord() else "pyav")
    assert got.info.frames_lost == 0
    assert (got.info.height, got.info.width) == (48, 128)
    np.testing.assert_allclose(got.timestamps_s, np.array(got.indices) / 25, atol=0.006)  # a gif counts in 0.01 s


@pytest.mark.parametrize("name", ["h264_b.mp4", "h264.mkv", "vp9.webm"])
def test_decord_and_pyav_agree_to_the_bit(name, files, monkeypatch):
    with_decord = read_media(files(name), "video", frames=6, sampling="even")
    monkeypatch.setattr("d2st.pipeline.media.read.load_decord", lambda: None)
    without = read_media(files(name), "video", frames=6, sampling="even")
    assert without.info.decoder.startswith("pyav")
    assert with_decord.indices == without.indices
    np.testing.assert_allclose(with_decord.timestamps_s, without.timestamps_s, atol=1e-6)
    for one, other in zip(with_decord.images, without.images, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sampling", ["even", "clip"])
def test_a_cut_with_an_edit_list_shows_what_a_player_shows(sampling, files, coded, tmp_path):
    cut = coded.remux(files("h264_b.mp4"), tmp_path / "cut.mp4", shift=-7)
    got = read_media(cut, "video", frames=6, sampling=sampling)
    assert_right(coded, got, COUNT - 7, 6, sampling, first=7)
    assert got.info.decoder.startswith("pyav")
    assert got.info.frames_lost == 0
    assert got.timestamps_s[0] == pytest.approx(got.indices[0] / 25, abs=1e-6)


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
@pytest.mark.parametrize("decord", [True, False])
def test_variable_frame_rate_keeps_its_times(name, decord, coded, tmp_path, monkeypatch):
    if not decord:
        monkeypatch.setattr("d2st.pipeline.media.read.load_decord", lambda: None)
    times = [index + index * index // 20 for index in range(20)]
    path = coded.write(tmp_path / name, coded.frames(20), pts=times.__getitem__)
    got = read_media(path, "video", frames=5, sampling="even")
    assert_right(coded, got, 20, 5, "even")
    np.testing.assert_allclose(got.timestamps_s, [times[index] / 25 for index in got.indices], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "degrees", "matrix"),
    [
        ("r90.mp4", 90, (0, 1, -1, 0)),
        ("r180.mov", 180, (-1, 0, 0, -1)),
        ("r270.mp4", 270, (0, -1, 1, 0)),
    ],
)
@pytest.mark.parametrize("decord", [True, False])
def test_rotation_is_applied(name, degrees, matrix, decord, coded, h264, tmp_path, monkeypatch):
    """A phone's video: stored lying, with the turn in the track header's matrix (ISO/IEC 14496-12, 8.3.2)."""
    if not decord:
        monkeypatch.setattr("d2st.pipeline.media.read.load_decord", lambda: None)
    data = bytearray(coded.remux(h264, tmp_path / name).read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value * 0x10000 for value in matrix)
    cells = (a, b, 0, c, d, 0, 0, 0, 0x40000000)
    data[start : start + 36] = b"".join(cell.to_bytes(4, "big", signed=True) for cell in cells)
    (tmp_path / name).write_bytes(data)
    got = read_media(tmp_path / name, "video", frames=4, sampling="even")
    assert got.info.rotation == degrees
    assert (got.info.height, got.info.width) == ((48, 128) if degrees == 180 else (128, 48))
    assert got.images[0].shape == (got.info.height, got.info.width, 3)
    lying = [np.rot90(image, degrees // 90) for image in got.images]
    assert [coded.index(image) for image in lying] == list(got.indices)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"), [("libx264", "yuv444p", "odd.mp4"), ("libvpx-vp9", "yuv420p", "odd.webm")]
)
def test_odd_sizes(codec, pix_fmt, name, coded, tmp_path):
    frames = coded.frames(20, height=51, width=135)
    path = coded.write(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt, options=None if codec == "libx264" else VPX)
    got = read_media(path, "video", frames=4, sampling="even")
    assert_right(coded, got, 20, 4, "even")
    assert got.images[0].shape == (51, 135, 3)


@pytest.mark.parametrize("name", ["short.mp4", "short.avi", "short.gif"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("sampling", ["even", "clip"])
def test_fewer_frames_than_asked_for_come_once_each(name, count, sampling, coded, tmp_path):
    codec = {"avi": {"codec": "mpeg4", "b_frames": 0}, "gif": {"codec": "gif", "pix_fmt": "rgb8"}}.get(name[-3:], {})
    path = coded.write(tmp_path / name, coded.frames(count), **codec)
    got = read_media(path, "video", frames=12, sampling=sampling)
    assert_right(coded, got, count, 12, sampling)


@pytest.mark.parametrize("suffix", ["h264", "mkv", "mp4"])
def test_a_stream_that_changes_size_on_the_way(suffix, coded, tmp_path):
    """Two encodes joined, as a call recorder leaves them: every frame in its own size, from PyAV."""
    options = {"x264-params": "keyint=10:bframes=0:threads=1:repeat-headers=1"}
    small = coded.write(tmp_path / "1.h264", coded.frames(20), options=options)
    large = coded.write(tmp_path / "2.h264", [coded.frame(20 + i, height=96, width=160) for i in range(20)], options=options)
    joined = tmp_path / "joined.h264"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    path = _wrap(joined, tmp_path / f"joined.{suffix}") if suffix != "h264" else joined
    got = read_media(path, "video", frames=8, sampling="even")
    assert_right(coded, got, 40, 8, "even")
    assert [image.shape[:2] for image in got.images] == [(48, 128)] * 4 + [(96, 160)] * 4


def _wrap(raw, target):
    from fractions import Fraction

    import av

    with av.open(str(raw)) as source, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.duration = 1
            output.mux(packet)
    return target
