"""Every kind of still image becomes upright 8-bit RGB, or a reason code."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from d2st.cache.errors import MediaError
from d2st.pipeline.media import read_media


def read(path):
    got = read_media(path, "image", frames=12, sampling="even")
    assert got.indices == (0,)
    assert got.timestamps_s == (0.0,)
    assert got.info.frame_count == 1
    picture = got.images[0]
    assert picture.dtype == np.uint8
    assert picture.shape == (got.info.height, got.info.width, 3)
    assert picture.flags.c_contiguous
    return got


def quadrants(height=32, width=48):
    """Red, green over blue, white: any turn or flip shows."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (250, 10, 10)
    picture[: height // 2, width // 2 :] = (10, 250, 10)
    picture[height // 2 :, : width // 2] = (10, 10, 250)
    picture[height // 2 :, width // 2 :] = 250
    return picture


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "gif", "jp2"])
def test_formats(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(quadrants()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    got = read(path)
    np.testing.assert_allclose(got.images[0], quadrants(), atol=3)
    assert got.info.decoder.startswith("pillow ")


@pytest.mark.parametrize(
    ("orientation", "stored", "degrees"),
    [
        (1, lambda p: p, 0),
        (2, lambda p: p[:, ::-1], 0),
        (3, lambda p: p[::-1, ::-1], 180),
        (4, lambda p: p[::-1], 0),
        (5, lambda p: p.transpose(1, 0, 2), 90),
        (6, lambda p: np.rot90(p, 1), 90),
        (7, lambda p: np.rot90(p, 2).transpose(1, 0, 2), 270),
        (8, lambda p: np.rot90(p, -1), 270),
        (77, lambda p: p, 0),
    ],
)
def test_exif_orientation_is_applied(orientation, stored, degrees, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(quadrants()))).save(tmp_path / "a.png", exif=exif)
    got = read(tmp_path / "a.png")
    np.testing.assert_array_equal(got.images[0], quadrants())
    assert got.info.rotation == degrees


def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage", quality=95)
    np.testing.assert_allclose(read(tmp_path / "a.jpg").images[0][4, 4], (250, 10, 10), atol=12)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_without_transparency(mode, tmp_path):
    source = Image.fromarray(quadrants()).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    source.save(path, **({"quality": 97, "subsampling": 0} if path.suffix == ".jpg" else {}))
    np.testing.assert_allclose(read(path).images[0].astype(int)[2:6, 2:6], np.array(source.convert("RGB"))[2:6, 2:6], atol=8)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(suffix, tmp_path):
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16)
    Image.fromarray(np.tile(levels, (4, 1))).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}").images[0], np.tile(np.arange(256)[:, None], (4, 1, 3)))


def test_16_bit_colour_png(tmp_path):
    rows = b"".join(b"\x00" + struct.pack(">6H", 0, 32768, 65535, 65535, 257, 0) for _ in range(2))
    (tmp_path / "a.png").write_bytes(png(2, 2, depth=16, colour=2, rows=rows))
    np.testing.assert_array_equal(read(tmp_path / "a.png").images[0][0], [(0, 128, 255), (255, 1, 0)])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_lies_over_white(mode, tmp_path):
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (8, 8), (10, 10, 10, 0) if mode == "RGBA" else (10, 0))
        image.putpixel((0, 0), (10, 10, 10, 255) if mode == "RGBA" else (10, 255))
        image.save(tmp_path / "a.png")
    else:
        image = Image.new("RGB", (8, 8), (30, 30, 30)).convert(mode)
        image.putpixel((0, 0), 200 if mode == "P" else (10, 10, 10))
        hidden = image.getpixel((1, 1))
        image.save(tmp_path / "a.png", transparency=hidden)
    picture = read(tmp_path / "a.png").images[0]
    assert (picture[1, 1] == 255).all()
    assert not (picture[0, 0] == 255).all()


def test_an_animated_gif_gives_its_first_frame(coded, tmp_path):
    frames = [Image.fromarray(coded.frame(index)) for index in (7, 8, 9)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert coded.index(read(tmp_path / "a.gif").images[0]) == 7


def test_float_pixels_are_refused_rather_than_guessed(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match=r"a\.tiff.*range") as caught:
        read(tmp_path / "a.tiff")
    assert caught.value.reason == "decode_failed"


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000)])
def test_a_huge_header_is_judged_before_decoding_and_without_a_warning(size, tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(*size, depth=8, colour=2, rows=b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("image", "video"):
            with pytest.raises(MediaError, match=r"bomb\.png") as caught:
                read_media(tmp_path / "bomb.png", kind, frames=1, sampling="even")
            assert caught.value.reason == ("too_large" if size[0] == 50_000 else "truncated")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_truncated_images(suffix, share, coded, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match=f"a.{suffix}") as caught:
        read(path)
    assert caught.value.reason in ({"truncated", "decode_failed"} if suffix == "tiff" else {"truncated"})


def test_text_and_video_are_no_images(h264, tmp_path):
    (tmp_path / "a.jpg").write_text("not an image at all\n" * 20)
    for path, reason in [(tmp_path / "a.jpg", "not_media"), (h264, "decode_failed")]:
        with pytest.raises(MediaError, match="not an image") as caught:
            read(path)
        assert caught.value.reason == reason


def png(width, height, *, depth, colour, rows):
    """A PNG file from its parts (PNG specification, 5 and 11)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
