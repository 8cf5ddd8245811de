"""The canonical canvas that heads are drawn on, and the few brushes they are drawn with.

One fixed grid for every head, so that a mask or an inner face of one person fits another person without any search.
Coordinates are face units: u to the right, v down, the origin between eyes and nose; 1 is half the height of a face.
"""

import cv2
import numpy as np

__all__ = ["CANVAS_PX", "UNIT_PX", "U", "V", "blob", "grain", "over", "pixel", "smoothstep", "stroke"]

CANVAS_PX = 320
UNIT_PX = 100.0  # canvas pixels a face unit: the canvas spans about -1.6..1.6

_axis = (np.arange(CANVAS_PX, dtype=np.float32) - (CANVAS_PX - 1) / 2) / UNIT_PX
U, V = np.meshgrid(_axis, _axis)  # (320, 320) float32 each
_SUBPIXEL_BITS = 4


def pixel(u: float, v: float) -> tuple[float, float]:
    """Face units to canvas pixels (x, y)."""
    return u * UNIT_PX + (CANVAS_PX - 1) / 2, v * UNIT_PX + (CANVAS_PX - 1) / 2


def blob(cu: float, cv: float, su: float, sv: float, *, mirrored: bool = False) -> np.ndarray:
    """exp(-((u-cu)/su)^2 - ((v-cv)/sv)^2), (320, 320) float32; `mirrored` puts a second one at -cu."""
    du = (np.abs(U) if mirrored else U) - cu
    return np.exp(-((du / su) ** 2) - ((V - cv) / sv) ** 2)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth ramp between; `low` > `high` turns it round."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def grain(rng: np.random.Generator, sigma_u: float, sigma_v: float) -> np.ndarray:
    """Smooth random texture of zero mean and unit deviation, (320, 320) float32; sigmas in canvas pixels."""
    noise = rng.standard_normal((CANVAS_PX, CANVAS_PX), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=sigma_u, sigmaY=sigma_v)
    return (noise - noise.mean()) / noise.std()


def over(picture: np.ndarray, colour: np.ndarray | tuple[float, ...], opacity: np.ndarray) -> np.ndarray:
    """`colour` laid over `picture` (H, W, 3) with `opacity` (H, W) in 0..1."""
    o = opacity[..., None]
    return picture * (1 - o) + np.asarray(colour, np.float32) * o


def stroke(points: list[tuple[float, float]], width: float, *, closed: bool = False) -> np.ndarray:
    """A soft-edged line through `points` (face units), `width` in face units: opacity (320, 320) float32."""
    mask = np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)
    scaled = (np.array([pixel(u, v) for u, v in points]) * 2**_SUBPIXEL_BITS).round().astype(np.int32)
    thickness = max(1, round(width * UNIT_PX))
    cv2.polylines(mask, [scaled], closed, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    return cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255
