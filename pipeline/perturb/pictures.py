"""Changes that see one picture at a time: JPEG, blur, noise, and a smaller size on the way.

Blur is a share of the crop's side, so that it hides the same of a face at 112 and at 336 px; `resize` is a factor, as sites apply it. Noise
is drawn from the sample's id alone: any run, in any order and on any number of threads, sees the same pixels.
"""

import hashlib
import io

import cv2
import numpy as np
from PIL import Image

__all__ = ["blur", "jpeg", "noise", "resize"]


def jpeg(crops: np.ndarray, quality: float) -> np.ndarray:
    """Write each crop of (T,S,S,3) uint8 RGB as JPEG (4:2:0, baseline, standard tables) of `quality` 1 to 95, and read it again."""
    made = np.empty_like(crops)
    for crop, out in zip(crops, made, strict=True):
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=round(quality), subsampling="4:2:0")
        with Image.open(file) as picture:
            out[:] = np.asarray(picture)
    return made


def blur(crops: np.ndarray, sigma_ratio: float) -> np.ndarray:
    """Gaussian blur of (T,S,S,3) uint8 with a standard deviation of `sigma_ratio` * S px; the border is mirrored."""
    sigma = sigma_ratio * crops.shape[1]
    return np.stack([cv2.GaussianBlur(crop, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) for crop in crops])


def noise(crops: np.ndarray, sigma: float, *, sample: str) -> np.ndarray:
    """White Gaussian noise of `sigma` grey levels (of 255) on each value of (T,S,S,3) uint8, rounded and cut off at 0 and 255.

    `sample` alone decides the pattern: of every `sigma` it is the same, only stronger, and frame k's does not depend on how many follow.
    """
    digest = hashlib.blake2b(sample.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    made = np.empty_like(crops)
    for crop, out in zip(crops, made, strict=True):
        drawn = rng.standard_normal(crop.shape, dtype=np.float32)
        out[:] = np.clip(np.rint(crop + np.float32(sigma) * drawn), 0, 255)
    return made


def resize(crops: np.ndarray, factor: float) -> np.ndarray:
    """Make (T,S,S,3) uint8 `factor` times smaller by area means, 1 px at least, and bring it back to S px by bicubic interpolation."""
    side = crops.shape[1]
    small = max(1, round(side / factor))
    made = np.empty_like(crops)
    for crop, out in zip(crops, made, strict=True):
        shrunk = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        out[:] = cv2.resize(shrunk, (side, side), interpolation=cv2.INTER_CUBIC)
    return made
