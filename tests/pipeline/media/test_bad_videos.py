"""Bad input one by one, in this process: each gives its reason code and names the file."""

import os
import random
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from d2st.cache.errors import MediaError
from d2st.pipeline.media import read_media
from d2st.pipeline.media.decord_reader import load_decord


def read(path, frames=6):
    return read_media(path, "video", frames=frames, sampling="even")


def assert_reason(path, *reasons):
    with pytest.raises(MediaError) as caught:
        read(path)
    assert caught.value.reason in reasons, str(caught.value)
    assert str(path) in str(caught.value)
    assert len(caught.value.message) < len(str(path)) + 320


@pytest.fixture
def bad(tmp_path):
    return tmp_path / "bad ünï 视频.mp4"


def test_missing(bad, tmp_path):
    assert_reason(bad, "missing")
    (tmp_path / "link.mp4").symlink_to(bad)
    assert_reason(tmp_path / "link.mp4", "missing")
    assert_reason(f"{tmp_path}/nul\0.mp4", "missing")


def test_empty_and_folder(bad, tmp_path):
    bad.write_bytes(b"")
    assert_reason(bad, "empty")
    assert_reason(tmp_path, "not_media")


def test_a_pipe_is_not_waited_for(bad):
    os.mkfifo(bad)
    assert_reason(bad, "not_media")


def test_unreadable(h264, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, whom no mode bit stops
    assert_reason(h264, "unreadable")


@pytest.mark.parametrize(
    "text", ["hello\n" * 50, "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile a.mp4\n"]
)
def test_text(text, bad):
    bad.write_text(text)
    assert_reason(bad, "not_media")


def test_a_playlist_can_not_open_other_files(h264, tmp_path):
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{h264.name}'\n")
    (tmp_path / h264.name).write_bytes(h264.read_bytes())
    assert_reason(tmp_path / "list.mp4", "not_media")


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes(seed, bad):
    bad.write_bytes(random.Random(seed).randbytes(20_000))
    assert_reason(bad, "not_media", "no_video_stream")


def test_audio_only(bad, tmp_path):
    import av

    for path, codec in [(bad, "aac"), (tmp_path / "a.wav", "pcm_s16le")]:
        with av.open(str(path), "w") as output:
            stream = output.add_stream(codec, rate=16000, layout="mono")
            for _ in range(8):
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
                sound.sample_rate = 16000
                output.mux(stream.encode(sound))
            output.mux(stream.encode(None))
        assert_reason(path, "no_video_stream")


@pytest.mark.parametrize("keep", [20, 200, 0.5, 0.95])
def test_truncated_with_the_index_at_the_end(keep, h264, bad):
    data = h264.read_bytes()
    bad.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
    assert_reason(bad, "truncated")


def test_truncated_with_the_index_in_front_gives_what_is_there(coded, h264, bad, tmp_path):
    import av

    fast = tmp_path / "fast.mp4"
    with av.open(str(h264)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    data = fast.read_bytes()
    start = data.index(b"mdat")
    bad.write_bytes(data[: start + (len(data) - start) // 2])
    got = read(bad)
    # indices count what decodes; the times still say which frame of the whole video each one was
    assert [coded.index(image) for image in got.images] == [round(25 * time) for time in got.timestamps_s]
    assert got.info.decoder.startswith("pyav")
    assert 5 < got.info.frame_count < 38
    assert got.info.frame_count + got.info.frames_lost == 40
    bad.write_bytes(data[: start + 50])
    assert_reason(bad, "truncated", "decode_failed")


@pytest.mark.parametrize(("kind", "codec"), [("mkv", "libx264"), ("webm", "libvpx"), ("flv", "libx264"), ("avi", "mpeg4")])
def test_frames_behind_a_cut_are_counted_as_lost(coded, tmp_path, kind, codec):
    whole = coded.write(tmp_path / f"whole.{kind}", coded.frames(80), codec=codec)
    assert read(whole).info.frames_lost == 0
    cut = tmp_path / f"cut.{kind}"
    data = whole.read_bytes()
    pictures = data.index(b"movi") if kind == "avi" else 0  # behind a long header
    cut.write_bytes(data[: (pictures + len(data)) // 2])
    got = read(cut)
    assert 5 < got.info.frame_count < 55
    assert got.info.frame_count + got.info.frames_lost == pytest.approx(80, abs=3)
    cut.write_bytes(data[:300])
    with pytest.raises(MediaError):
        read(cut)


def test_a_hole_in_the_middle(h264, bad):
    data = bytearray(h264.read_bytes())
    start = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 3
    data[start : start + 300] = bytes(300)
    bad.write_bytes(data)
    got = read(bad)
    assert 6 <= got.info.frame_count < 40
    assert got.info.frames_lost == 40 - got.info.frame_count


def test_an_image_under_a_videos_name_is_a_video_of_one_frame(coded, bad):
    for form in ("JPEG", "PNG", "WEBP"):
        Image.fromarray(coded.frame(5)).save(bad, format=form)
        got = read(bad)
        assert coded.index(got.images[0]) == 5
        assert got.indices == (0,)


def test_names_that_ffmpeg_would_interpret(coded, h264, tmp_path):
    for name in [
        "a b.mp4",
        "ünï 视频.mp4",
        "100%.mp4",
        "what?#[1].mp4",
        "x%03d.mp4",
        "concat:a|b.mp4",
        "h264 named.jpg",
        b"\xff.mp4",
    ]:
        path = os.path.join(tmp_path, os.fsdecode(name))
        with open(path, "wb") as file:
            file.write(h264.read_bytes())
        got = read(path)
        assert [coded.index(image) for image in got.images] == list(got.indices)


def test_relative_names(coded, h264, monkeypatch):
    monkeypatch.chdir(h264.parent)
    assert len(read(h264.name).images) == 6


@pytest.mark.parametrize(
    ("box", "offset", "reason"), [(b"stts", 12, "too_large"), (b"stts", 8, "too_large"), (b"stsz", 12, "decode_failed")]
)
def test_a_header_that_claims_four_billion_frames_never_reaches_decord(box, offset, reason, h264, bad, monkeypatch):
    """Such a file once ended the process with std::bad_alloc."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("decord was given an absurd header")

    monkeypatch.setattr("d2st.pipeline.media.read.read_decord", refuse)
    data = bytearray(h264.read_bytes())
    start = data.index(box) + offset
    data[start : start + 4] = struct.pack(">I", 4_000_000_000)
    bad.write_bytes(data)
    assert_reason(bad, reason)


def test_a_claim_of_too_many_frames_or_pixels(h264, monkeypatch):
    monkeypatch.setattr("d2st.pipeline.media.probe.MAX_FRAMES", 39)
    assert_reason(h264, "too_large")
    monkeypatch.setattr("d2st.pipeline.media.probe.MAX_FRAMES", 40)
    assert len(read(h264).images) == 6
    monkeypatch.setattr("d2st.pipeline.media.probe.MAX_PIXELS", 48 * 128 - 1)
    assert_reason(h264, "too_large")


def test_no_memory_is_a_reason_too(h264, monkeypatch):
    def exhausted(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("d2st.pipeline.media.read.read_decord", exhausted)
    monkeypatch.setattr("d2st.pipeline.media.read.read_pyav", exhausted)
    assert_reason(h264, "too_large")


@pytest.mark.skipif(load_decord() is None, reason="decord is not installed")
class TestDecordIsNotTrusted:
    """With a stand-in for decord that lies in one way each."""

    @pytest.fixture
    def fake(self, h264, monkeypatch):
        decord = load_decord()
        real_reader = decord.VideoReader
        asked = []

        class Reader:
            count = 40
            times = np.arange(40) / 25
            change = staticmethod(lambda batch: batch)

            def __init__(self, *args, **kwargs):
                assert kwargs["num_threads"] == 1
                self.inner = real_reader(*args, **kwargs)

            def __len__(self):
                return self.count

            def get_frame_timestamp(self, _indices):
                return np.stack([self.times, self.times], axis=1)

            def get_batch(self, indices):
                asked.append(list(indices))
                batch = self.change(self.inner.get_batch(indices).asnumpy())
                return type("Batch", (), {"asnumpy": lambda _: batch})()

        Reader.asked = asked
        monkeypatch.setattr(decord, "VideoReader", Reader)
        return Reader

    def test_frame_0_is_always_asked_for_too(self, fake, h264):
        """FF++ c23 (x264 build 148, High 4:4:4) is green garbage if the first frame asked for lies beyond the first GOP."""
        got = read(h264)
        assert got.info.decoder.startswith("decord")
        assert fake.asked == [[0, 3, 10, 16, 23, 30, 36]]
        assert len(got.images) == 6

    def test_large_frames_are_asked_for_in_parts_each_with_frame_0(self, fake, h264, coded, monkeypatch):
        monkeypatch.setattr("d2st.pipeline.media.decord_reader.CHUNK_PIXELS", 4 * 48 * 128)
        got = read(h264)
        assert fake.asked == [[0, 3, 10, 16, 23], [0, 30, 36]]
        assert [coded.index(image) for image in got.images] == list(got.indices)

    @pytest.mark.parametrize(
        "lie",
        [
            {"count": 39},
            {"count": 0},
            {"count": 3_000_000},
            {"times": np.arange(40) / 25 - 0.3},
            {"times": np.sort(np.arange(40) // 2) / 25},
            {"times": np.full(40, np.nan)},
            {"change": staticmethod(lambda batch: np.concatenate([batch[:-1], batch[-2:-1]]))},
            {"change": staticmethod(lambda batch: batch.transpose(0, 2, 1, 3))},
        ],
    )
    def test_a_lie_is_noticed_and_pyav_reads_the_file(self, lie, fake, h264, coded, monkeypatch):
        for name, value in lie.items():
            monkeypatch.setattr(fake, name, value)
        got = read(h264)
        assert got.info.decoder.startswith("pyav")
        assert [coded.index(image) for image in got.images] == list(got.indices)


def test_nothing_is_printed_or_warned_of(h264, bad, capfd):
    data = bytearray(h264.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    bad.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(bad)
    assert capfd.readouterr() == ("", "")
