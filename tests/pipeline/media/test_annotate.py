"""The drawn copy of a video: its own times, its sound, its pictures upright, and the right things drawn in the right frames."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from d2st.cache.errors import ConfigError, MediaError
from d2st.pipeline.media import mp4
from d2st.pipeline.media.annotate import TrackDrawing, annotate_video, box_at
from d2st.pipeline.media.overlay import FAKE, REAL, Strip, draw_box, font_px, verdict

SECONDS = 2.0
FACE = TrackDrawing(1, (0.5, 1.0, 1.5), ((20, 10, 60, 40),) * 3, ((0.0, 1.0, 0.9), (1.0, 2.0, 0.2)), 0.6)


def read(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]


def grey(count: int, height: int = 48, width: int = 128) -> list[np.ndarray]:
    return [np.full((height, width, 3), 96, np.uint8)] * count


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    low, high = (tuple(np.clip(np.array(colour) + change, 0, 255).tolist()) for change in (-40, 40))
    return cv2.countNonZero(cv2.inRange(image, low, high))


def write_with_sound(path: Path, codec: str, *, rate: int = 16000, start_s: float = 0.0, layout: str = "mono") -> Path:
    """Two seconds of grey at 10 fps with a tone; both begin at `start_s`."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=10), container.add_stream(codec, rate=rate)
        video.height, video.width, video.pix_fmt = 48, 128, "yuv420p"
        sound.layout = layout
        for number, image in enumerate(grey(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 10), number + round(start_s * 10)
            container.mux(video.encode(frame))
        sound_format = sound.codec_context.codec.audio_formats[0].name
        step = 1024
        for at in range(0, int(SECONDS * rate), step):
            wave = (8000 * np.sin(np.arange(at, at + step) * 0.1)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, at + round(start_s * rate), Fraction(1, rate)
            for out in av.AudioResampler(format=sound_format, layout=layout, rate=rate).resample(frame):
                container.mux(sound.encode(out))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def sound_bytes(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_boxes_and_scores_appear_when_they_should(coded, tmp_path):
    coded.write(tmp_path / "in.mp4", grey(20), fps=10)
    done = annotate_video(tmp_path / "in.mp4", tmp_path / "out.mp4", [FACE], threshold=0.5)
    assert (done.frames, done.sound) == (20, "none")
    images, times = read(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-6)
    assert images[0].shape[0] > 48
    assert images[0].shape[1] == 128
    for image, time in zip(images, times, strict=True):
        fake, real = (coloured(image[:48], colour) > 50 for colour in (FAKE, REAL))
        seen = 0.25 <= time <= 1.75
        assert (fake, real) == (seen and time < 1, seen and time >= 1), time
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_a_variable_frame_rate_keeps_its_times(name, coded, tmp_path):
    at = [index + index * index // 20 for index in range(20)]
    path = coded.write(tmp_path / name, coded.frames(20), pts=at.__getitem__)
    assert annotate_video(path, tmp_path / "out.mp4", [], threshold=0.5).frames == 20
    images, times = read(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, np.array(at) / 25, atol=2e-3)
    assert [coded.index(image) for image in images] == list(range(20))


@pytest.mark.parametrize(("turns", "matrix"), [(1, (0, 1, -1, 0)), (2, (-1, 0, 0, -1))])
def test_a_turned_video_comes_out_upright(turns, matrix, coded, h264, tmp_path):
    data = bytearray(coded.remux(h264, tmp_path / "turned.mp4").read_bytes())
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[start : start + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d, 0, 0, 0, 0x40000000))
    (tmp_path / "turned.mp4").write_bytes(data)
    annotate_video(tmp_path / "turned.mp4", tmp_path / "out.mp4", [], threshold=0.5)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
    height = 48 if turns == 2 else 128
    lying = np.rot90(frame.to_ndarray(format="rgb24")[:height], turns)
    assert coded.index(np.ascontiguousarray(lying)) == 0


def test_an_odd_size_is_made_even(coded, tmp_path):
    path = coded.write(tmp_path / "odd.mkv", grey(3, 47, 127), codec="ffv1", pix_fmt="bgr0", options={})
    annotate_video(path, tmp_path / "out.mp4", [FACE], threshold=0.5)
    images, _ = read(tmp_path / "out.mp4")
    assert (images[0].shape[0] % 2, images[0].shape[1]) == (0, 128)
    assert np.abs(images[2][:47].astype(int) - 96).max() < 12


def test_a_stream_that_changes_its_size_keeps_the_first_one(coded, tmp_path):
    parts = [
        coded.write(tmp_path / f"{n}.h264", frames, container="h264", b_frames=0)
        for n, frames in enumerate((grey(4, 64, 96), [np.full((96, 64, 3), 180, np.uint8)] * 4))
    ]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert annotate_video(tmp_path / "both.h264", tmp_path / "out.mp4", [], threshold=0.5).frames == 8
    images, _ = read(tmp_path / "out.mp4")
    assert [round(float(image[8:56, 8:88].mean()) / 10) for image in images] == [10] * 4 + [18] * 4


@pytest.mark.parametrize(
    ("name", "codec", "start_s", "layout"),
    [
        ("a.mp4", "aac", 0.0, "mono"),
        ("a.ts", "aac", 30.0, "mono"),
        ("a.mkv", "flac", 0.0, "mono"),
        ("b.mkv", "pcm_s16le", 0.0, "stereo"),  # whose layout Matroska does not keep
    ],
)
def test_sound_is_copied_and_stays_in_step(name, codec, start_s, layout, tmp_path):
    path = write_with_sound(tmp_path / name, codec, start_s=start_s, layout=layout)
    assert annotate_video(path, tmp_path / "out.mp4", [FACE], threshold=0.5).sound == "copied"
    assert len(sound_bytes(tmp_path / "out.mp4")) == len(sound_bytes(path))
    with av.open(str(path)) as source, av.open(str(tmp_path / "out.mp4")) as made:
        lags = [
            next(c.decode(c.streams.audio[0])).time - next(c2.decode(c2.streams.video[0])).time
            for c, c2 in ((source, av.open(str(path))), (made, av.open(str(tmp_path / "out.mp4"))))
        ]
        assert made.duration == pytest.approx(SECONDS * av.time_base, rel=0.1)
    assert lags[0] == pytest.approx(lags[1], abs=0.03)


def test_sound_that_mp4_can_not_hold_is_left_out_and_said_so(tmp_path):
    path = write_with_sound(tmp_path / "a.avi", "adpcm_ms")
    done = annotate_video(path, tmp_path / "out.mp4", [FACE], threshold=0.5)
    assert (done.frames, done.sound) == (20, "left out")
    assert len(read(tmp_path / "out.mp4")[0]) == 20


def test_without_libx264_it_is_mpeg4(coded, tmp_path, monkeypatch):
    path = coded.write(tmp_path / "in.mp4", grey(5), fps=10)
    monkeypatch.setattr(mp4, "ENCODERS", {"no-such-encoder": {}, "mpeg4": mp4.ENCODERS["mpeg4"]})
    annotate_video(path, tmp_path / "out.mp4", [FACE], threshold=0.5)
    images, times = read(tmp_path / "out.mp4")
    assert len(images) == 5
    np.testing.assert_allclose(times, np.arange(5) / 10, atol=1e-3)
    monkeypatch.setattr(mp4, "ENCODERS", {"no-such-encoder": {}})
    with pytest.raises(ConfigError, match="no-such-encoder"):
        annotate_video(path, tmp_path / "none.mp4", [FACE], threshold=0.5)
    assert not (tmp_path / "none.mp4").exists()


def test_what_can_not_be_drawn_leaves_the_older_file(h264, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"older")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 9)
    with pytest.raises(MediaError, match="bad"):
        annotate_video(tmp_path / "bad.mp4", tmp_path / "out.mp4", [], threshold=0.5)
    assert (tmp_path / "out.mp4").read_bytes() == b"older"
    with pytest.raises(ConfigError, match="itself"):
        annotate_video(h264, h264, [], threshold=0.5)
    with pytest.raises(ConfigError, match="no/out"):
        annotate_video(h264, tmp_path / "no" / "out.mp4", [], threshold=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4", "out.mp4"]


def test_a_file_that_breaks_off_is_drawn_as_far_as_it_goes(coded, tmp_path):
    path = coded.write(tmp_path / "in.mkv", coded.frames(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    done = annotate_video(path, tmp_path / "out.mp4", [], threshold=0.5)
    assert 10 < done.frames < 40
    whole = done.frames - 5  # what the damage left of the last group of pictures may lack some
    assert [coded.index(image) for image in read(tmp_path / "out.mp4")[0][:whole]] == list(range(whole))


def test_a_box_moves_between_samples_and_is_gone_where_the_face_was():
    face = TrackDrawing(1, (0.0, 1.0, 2.0, 8.0, 9.0), ((0, 0, 10, 10), (10, 0, 20, 10), *[(10, 0, 20, 10)] * 3), (), 0.5)
    np.testing.assert_allclose(box_at(face, 0.25, 1.0), (2.5, 0, 12.5, 10))
    np.testing.assert_allclose(box_at(face, 2.4, 1.0), (10, 0, 20, 10))
    assert box_at(face, 2.6, 1.0) is None
    assert box_at(face, 7.4, 1.0) is None
    assert box_at(face, 7.6, 1.0) is not None
    assert box_at(face, 9.6, 1.0) is None
    assert box_at(TrackDrawing(1, (), (), (), 0.5), 0.0, 1.0) is None


@pytest.mark.parametrize(("height", "width"), [(2160, 3840), (256, 256), (64, 40)])
def test_labels_and_strip_fit_any_picture(height, width):
    picture = np.zeros((height, width, 3), np.uint8)
    for box in ((-50, -50, 30, 30), (width - 20, 5, width + 90, height + 90), (-1e9, -1e9, 1e9, 1e9)):
        draw_box(picture, box, *verdict(0.9, 0.5), thick=True)
    assert coloured(picture, FAKE) > font_px(height, width) ** 2
    faces = [FACE, *[TrackDrawing(k, (), (), ((0.5, 1.5, None),), 0.1) for k in range(2, 8)]]
    strip = Strip(width, height, faces, threshold=0.5, duration_s=2.0)
    for time_s in (0.0, 1.0, 2.0, 99.0):
        drawn = strip.at(time_s)
        assert drawn.shape == (strip.height, width, 3)
        assert (height + strip.height) % 2 == 0
    assert coloured(strip.at(0.0), FAKE) > 0
    assert coloured(strip.at(0.0), REAL) > 0


def test_the_last_lane_shows_the_highest_of_the_faces_that_have_none_of_their_own():
    calm = [TrackDrawing(k, (), (), ((0.0, 1.0, 0.1),), 0.1) for k in range(1, 4)]
    late = [TrackDrawing(k, (), (), ((0.5, 1.0, p),), p) for k, p in ((4, 0.9), (5, 0.2))]
    four, five = (Strip(320, 240, [*calm, *late[:n]], threshold=0.5, duration_s=1.0) for n in (1, 2))
    assert four.height == five.height
    assert coloured(four.at(0.0), FAKE) == pytest.approx(coloured(five.at(0.0), FAKE), rel=0.05)
