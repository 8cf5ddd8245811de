"""Read still images with Pillow: every mode becomes 8-bit RGB, upright, as a viewer shows it.

What is decided here: 16-bit greyscale is scaled to 8 bits (never clipped), transparency is laid over white, EXIF orientation
is applied, and an animation gives its first frame. Images whose range is unknown (float, 32-bit integer) are refused rather
than guessed. The size is judged from the header, before anything is decoded.
"""

import functools
import warnings
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from d2st.pipeline.media.failure import check_file, media_error, unopened_reason
from d2st.pipeline.media.types import MAX_PIXELS, Frames, MediaInfo

__all__ = ["load_image", "read_image"]

# formats known by their content; none that runs another program (EPS) or matches anything (TGA)
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
EXIF_ORIENTATION = 0x0112
# EXIF orientation -> how to put the picture upright, and the clockwise turn in it (EXIF 2.3, 4.6.4)
UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, 0),
    3: (Image.Transpose.ROTATE_180, 180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, 0),
    5: (Image.Transpose.TRANSPOSE, 90),
    6: (Image.Transpose.ROTATE_270, 90),
    7: (Image.Transpose.TRANSVERSE, 270),
    8: (Image.Transpose.ROTATE_90, 270),
}


def read_image(path: str | Path) -> Frames:
    """Read one image as Frames of one (H, W, 3) picture at index 0. Raises MediaError."""
    picture, info = load_image(path)
    return Frames(images=(picture,), indices=(0,), timestamps_s=(0.0,), info=info)


def load_image(path: str | Path) -> tuple[np.ndarray, MediaInfo]:
    """Return the picture, (H, W, 3) uint8 RGB, and where it came from. Raises MediaError with its reason code."""
    check_file(path)
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata and large sizes; both are judged here
        try:
            image = Image.open(file, formats=_formats())
        except Image.DecompressionBombError as error:
            raise media_error("too_large", path, error) from error
        except MemoryError:
            raise
        except Exception as error:
            raise media_error(unopened_reason(path), path, "not an image that Pillow knows") from error
        if image.width * image.height > MAX_PIXELS:
            raise media_error("too_large", path, f"{image.width} x {image.height} pixels")
        mode, codec = image.mode, (image.format or "").lower()
        try:
            image.load()
            upright, rotation = UPRIGHT.get(_orientation(image), (None, 0))
            picture = _to_rgb(image)  # (H, W, 3)
            if upright is not None:
                picture = np.asarray(Image.fromarray(picture).transpose(upright))
        except MemoryError:
            raise
        except Exception as error:  # plugins raise OSError, SyntaxError, EOFError, ValueError, struct.error, ...
            cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
            raise media_error("truncated" if cut else "decode_failed", path, error) from error
    height, width = picture.shape[:2]
    decoder = f"pillow {PIL.__version__}"
    info = MediaInfo(decoder, 1, None, width, height, rotation, codec, mode, frames_lost=0)
    return picture, info


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the picture: it stays as it is, as in a viewer
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 from any Pillow mode. Raises ValueError for a mode without a known range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.uint32).clip(0, 65535)
        grey = ((grey * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode}: 32-bit pixels without a known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))
