import av
import numpy as np
import pytest

from d2st.cache.errors import ConfigError
from d2st.pipeline.media import read_media
from d2st.pipeline.media.encode import write_h264


def test_the_same_frames_give_the_same_bytes_and_come_back(coded, tmp_path):
    frames = coded.frames(30)
    assert write_h264(tmp_path / "a.mp4", frames, fps=29.97, keyframe_interval=10) == 30
    write_h264(tmp_path / "b.mp4", iter(frames), fps=29.97, keyframe_interval=10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    got = read_media(tmp_path / "a.mp4", "video", frames=30, sampling="even")
    assert [coded.index(image) for image in got.images] == list(range(30))
    assert got.info.fps == pytest.approx(29.97)
    assert (got.info.codec, got.info.pix_fmt) == ("h264", "yuv420p")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert "creation_time" not in container.metadata
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff([*keys, 30])) <= 10


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((33, 32, 3), np.uint8)],
        [np.zeros((32, 32), np.uint8)],
        [np.zeros((32, 32, 3), np.float32)],
        [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)],
    ],
)
def test_what_can_not_be_encoded_is_refused_and_leaves_no_file(frames, tmp_path):
    with pytest.raises(ConfigError, match="x\\.mp4"):
        write_h264(tmp_path / "x.mp4", frames, fps=25)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(coded, tmp_path):
    write_h264(tmp_path / "x.mp4", coded.frames(3), fps=25)
    before = (tmp_path / "x.mp4").read_bytes()

    def broken():
        yield coded.frame(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_h264(tmp_path / "x.mp4", broken(), fps=25)
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]
    assert (tmp_path / "x.mp4").read_bytes() == before
