import pytest
from PIL import Image

from d2st.cache.errors import MediaError
from d2st.pipeline.media import read_media


@pytest.fixture
def folder(coded, tmp_path):
    """12 frames named without leading zeros, and what else lies about in such folders."""
    path = tmp_path / "000 ünï"
    path.mkdir()
    for index in range(12):
        Image.fromarray(coded.frame(index)).save(path / f"frame_{index}.png")
    (path / ".hidden.png").write_bytes(b"x")
    (path / "Thumbs.db").write_bytes(b"x")
    (path / "landmarks.json").write_text("{}")
    (path / "sub.png").mkdir()
    return path


@pytest.mark.parametrize(("sampling", "expected"), [("even", [1, 4, 7, 10]), ("clip", [4, 5, 6, 7])])
def test_natural_order_is_time(folder, sampling, expected, coded):
    got = read_media(folder, "frames", frames=4, sampling=sampling)
    assert [coded.index(image) for image in got.images] == list(got.indices) == expected
    assert got.timestamps_s == tuple(index / 25 for index in expected)
    assert (got.info.frame_count, got.info.frames_lost, got.info.width, got.info.height) == (12, 0, 128, 48)


def test_named_frames_alone(folder, coded):
    got = read_media(folder, "frames", frames=4, sampling="even", files=["frame_7.png", "frame_3.png", "gone.png"])
    assert [coded.index(image) for image in got.images] == [7, 3]
    assert (got.info.frame_count, got.info.frames_lost) == (3, 1)


def test_a_damaged_frame_is_left_out_and_counted(folder, coded):
    (folder / "frame_4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    got = read_media(folder, "frames", frames=4, sampling="even")
    assert [coded.index(image) for image in got.images] == list(got.indices) == [1, 7, 10]
    assert got.info.frames_lost == 1


def test_reasons(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for index in range(12):
        (folder / f"frame_{index}.png").write_bytes(b"")
    cases = {"empty": "empty", "file": "not_media", "nowhere": "missing", folder.name: "empty"}
    for name, reason in cases.items():
        with pytest.raises(MediaError, match=name) as caught:
            read_media(tmp_path / name, "frames", frames=4, sampling="even")
        assert caught.value.reason == reason
