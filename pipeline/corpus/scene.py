"""Where a clip is filmed: lamp, background, shoulders and the camera with its noise.

All of it is drawn from the clip's own random stream, never from its label: real and fake clips share one distribution
of light, background, sharpness, noise and compression, so that only the manipulation tells them apart.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from d2st.pipeline.corpus.traits import Rgb, Traits

__all__ = [
    "BODY_UNIT_PX",
    "FRAME_PX",
    "Camera",
    "Lamp",
    "draw_backdrop",
    "draw_camera",
    "draw_lamp",
    "draw_shoulders",
    "expose",
]

FRAME_PX = 256
BODY_UNIT_PX = 75.0  # px a face unit on the drawing of the shoulders
_BANK_PX = 640  # the noise bank, from which each frame takes a random window


@dataclass(frozen=True)
class Lamp:
    """A key light: unit direction towards it, how much light is ambient, and its colour."""

    direction: tuple[float, float, float]
    ambient: float
    strength: float
    tint: Rgb


@dataclass(frozen=True)
class Camera:
    """Lens blur (sigma, px), noise (deviation, grey levels; how much of it is colour), exposure and white balance."""

    blur_px: float
    noise: float
    noise_chroma: float
    gain: Rgb
    gamma: float
    jpeg_quality: int
    crf: int


def draw_lamp(rng: np.random.Generator) -> Lamp:
    """A lamp above the face, from the left to the right, between hard and soft."""
    side, up = rng.uniform(-0.75, 0.75), rng.uniform(0.15, 0.7)
    vector = np.array([side, -up, 0.9])
    vector /= np.linalg.norm(vector)
    warmth = rng.normal(0, 0.035)
    ambient = rng.uniform(0.38, 0.58)
    return Lamp(tuple(map(float, vector)), ambient, float(0.98 - 0.66 * ambient), (1 + warmth, 1.0, 1 - warmth))


def draw_camera(rng: np.random.Generator) -> Camera:
    """A camera and its encoder settings, the same draw for real and fake."""
    exposure = float(np.exp(rng.normal(-0.02, 0.10)))
    cast = rng.normal(0, 0.025, 3)
    return Camera(
        blur_px=rng.uniform(0.35, 0.75),
        noise=rng.uniform(2.5, 5.5),
        noise_chroma=rng.uniform(0.2, 0.6),
        gain=tuple(float(exposure * (1 + c)) for c in cast),
        gamma=rng.uniform(0.88, 1.12),
        jpeg_quality=int(rng.integers(78, 97)),
        crf=int(rng.integers(16, 25)),
    )


def draw_backdrop(rng: np.random.Generator) -> np.ndarray:
    """A room behind the person, out of focus: (256, 256, 3) float32 in 0..255."""
    yy, xx = np.mgrid[0:FRAME_PX, 0:FRAME_PX].astype(np.float32) / FRAME_PX
    base = rng.uniform(50, 190) + rng.normal(0, 18, 3)
    slope = rng.normal(0, 45, 2)
    room = base + ((xx - 0.5) * slope[0] + (yy - 0.5) * slope[1])[..., None]
    for _ in range(int(rng.integers(2, 8))):  # shelves, windows, lamps
        x, y, w, h = rng.uniform(-0.1, 1.0), rng.uniform(-0.1, 0.9), rng.uniform(0.06, 0.5), rng.uniform(0.06, 0.6)
        colour = np.clip(base + rng.normal(0, 45) + rng.normal(0, 20, 3), 5, 250)
        if rng.random() < 0.3:
            inside = ((xx - x) / w) ** 2 + ((yy - y) / h) ** 2 < 0.25
        else:
            inside = (np.abs(xx - x) < w / 2) & (np.abs(yy - y) < h / 2)
        room = np.where(inside[..., None], room * 0.25 + colour * 0.75, room)
    room = cv2.GaussianBlur(room.astype(np.float32), (0, 0), rng.uniform(1.5, 8.0))
    texture = cv2.GaussianBlur(rng.standard_normal((FRAME_PX, FRAME_PX)).astype(np.float32), (0, 0), rng.uniform(0.7, 2.5))
    return np.clip(room + rng.uniform(0, 12) * texture[..., None], 2, 253).astype(np.float32)


def draw_shoulders(traits: Traits, lamp: Lamp, rng: np.random.Generator) -> np.ndarray:
    """Neck, shoulders and clothes as (256, 256, 4) float32, colours 0..255 and opacity 0..1, for a face in the middle."""
    yy, xx = np.mgrid[0:FRAME_PX, 0:FRAME_PX].astype(np.float32)
    x, y = (xx - FRAME_PX / 2) / 66.0, (yy - FRAME_PX / 2) / BODY_UNIT_PX
    tilt = lamp.direction[0]

    neck = np.clip(0.5 + (0.46 - np.abs(x)) * 33, 0, 1) * (y > 0.2)
    round_neck = (
        lamp.ambient + lamp.strength * np.clip(np.sqrt(np.clip(1 - (x / 0.5) ** 2, 0, 1)) * 0.8 + tilt * x, 0, 1)
    ) * 0.8
    chin_shadow = 1 - 0.5 * np.exp(-(((y - 0.95 - 0.25 * tilt * x) / 0.3) ** 2))
    skin = np.array(traits.skin, np.float32) * (round_neck * chin_shadow)[..., None]

    slope = rng.uniform(0.16, 0.34)
    top = 1.32 + slope * np.clip(np.abs(x) - 0.34, 0, None) ** 1.2 - rng.uniform(0.0, 0.18) * np.exp(-((x / 0.6) ** 2))
    cloth = np.clip(0.5 + (y - top) * 33, 0, 1)
    folds = cv2.GaussianBlur(rng.standard_normal((FRAME_PX, FRAME_PX)).astype(np.float32), (0, 0), sigmaX=4, sigmaY=14) * 20
    shade = np.clip(0.8 + 0.35 * tilt * x + 0.10 * np.clip(folds, -2, 2), 0.3, 1.4)
    dye = np.clip(rng.uniform(25, 215) + rng.normal(0, 30, 3), 12, 240)
    picture = skin * (1 - cloth)[..., None] + dye * shade[..., None] * cloth[..., None]
    return np.dstack([picture, np.maximum(neck, cloth)]).astype(np.float32)


def expose(light: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """What the camera makes of `light` (H, W, 3) float32 0..255: blurred, graded, noisy, (H, W, 3) uint8."""
    picture = cv2.GaussianBlur(light, (0, 0), camera.blur_px)
    x, y = (int(v) for v in rng.integers(0, _BANK_PX - FRAME_PX, 2))
    window = _noise_bank()[y : y + FRAME_PX, x : x + FRAME_PX]
    noise = window[..., :3] * np.float32(camera.noise_chroma * camera.noise) + window[..., 3:] * np.float32(camera.noise)
    picture = np.clip(picture, 0, 255) / np.float32(255)
    picture = cv2.pow(picture, camera.gamma) * np.array([255 * g for g in camera.gain], np.float32)
    return np.clip(picture + noise + np.float32(0.5), 0, 255).astype(np.uint8)


@cache
def _noise_bank() -> np.ndarray:
    """(640, 640, 4) float32 of unit deviation: three colour channels and one for all, slightly correlated as after demosaicing."""
    noise = np.random.default_rng(20240117).standard_normal((_BANK_PX, _BANK_PX, 4), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.55)
    return noise / noise.std(axis=(0, 1))
