"""A person's head as a relief with colours: height, albedo and opacity, made once for each identity.

The decision: a height map that a lamp lights, not painted shadows. A face detector looks for the light and dark that
eye sockets, nose and lips make; they come out right, and move with the lamp, once the relief is right.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from d2st.pipeline.corpus.canvas import UNIT_PX, U, V, blob, grain, over, smoothstep, stroke
from d2st.pipeline.corpus.hair import add_beard, add_glasses, add_hair, add_scalp
from d2st.pipeline.corpus.traits import Traits

__all__ = ["Head", "sculpt"]


@dataclass(frozen=True)
class Head:
    """A sculpted head on the canvas; every array is (320, 320) float32, colours (320, 320, 3) in 0..255."""

    traits: Traits
    open_eyes: np.ndarray  # albedo with the eyes open
    closed_eyes: np.ndarray  # albedo with the eyes closed
    opacity: np.ndarray
    height: np.ndarray  # towards the camera, face units
    normal: np.ndarray  # (320, 320, 3) unit vectors
    cavity: np.ndarray  # factor of ambient light: below 1 in hollows, above 1 on ridges
    matte: np.ndarray  # 1 where the skin shines a little, 0 in hair


def sculpt(traits: Traits) -> Head:
    """The head of a person. Deterministic: the texture comes from `traits.texture_seed`."""
    rng = np.random.default_rng(traits.texture_seed)
    bare = _outline(traits)
    height = _relief(traits)
    skin = _skin(traits, rng)
    closed = _lids(skin, traits)
    opened = _eyes(skin, traits)
    back, back_opacity = add_scalp(traits, rng)
    hair_seed = int(rng.integers(2**31))

    def dress(albedo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = np.random.default_rng(hair_seed)  # the same strands on both textures
        albedo = _brows(add_beard(albedo, traits, own), traits, own)
        albedo, opacity = add_hair(albedo, bare, traits, own)
        albedo = over(back, albedo, opacity) if opacity is not bare else over(back, albedo, bare)
        return add_glasses(albedo, traits), np.maximum(opacity, back_opacity)

    open_eyes, opacity = dress(opened)
    closed_eyes, _ = dress(closed)
    slope_v, slope_u = np.gradient(cv2.GaussianBlur(height, (0, 0), 1.5), 1 / UNIT_PX)
    normal = np.dstack([-slope_u, -slope_v, np.ones_like(U)])
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    hollow = height - cv2.GaussianBlur(height, (0, 0), 0.13 * UNIT_PX)
    return Head(
        traits=traits,
        open_eyes=open_eyes.astype(np.float32),
        closed_eyes=closed_eyes.astype(np.float32),
        opacity=opacity.astype(np.float32),
        height=height.astype(np.float32),
        normal=normal.astype(np.float32),
        cavity=np.clip(1 + 3.0 * hollow, 0.45, 1.12).astype(np.float32),
        matte=(bare * smoothstep(-0.8, -0.6, V)).astype(np.float32),
    )


def _outline(traits: Traits) -> np.ndarray:
    """Opacity of the bare head: an egg with ears."""
    half = traits.half_width * (1 - traits.jaw * np.clip(V, 0, None) ** 2)
    below = (np.abs(U) / half) ** 2.2 + (np.abs(V) / 1.04) ** 2.2
    above = (np.abs(U) / traits.half_width) ** 2.2 + (np.abs(V) / 1.2) ** 2.2
    egg = smoothstep(1.025, 0.97, np.where(V > 0, below, above))
    ears = smoothstep(1.05, 0.9, np.hypot((np.abs(U) - traits.half_width) / 0.1, (V - 0.08) / 0.22))
    return np.maximum(egg, ears if traits.style != "long" else 0 * ears)


def _relief(traits: Traits) -> np.ndarray:
    """Height towards the camera, face units: an ellipsoid plus everything that sticks out or sinks in."""
    eye_v, mouth_v = traits.eye_v, traits.mouth_v
    base_v = eye_v + 0.12 + traits.nose_length  # underside of the nose
    radius2 = (U / (traits.half_width + 0.02)) ** 2 + np.where(V > 0, V / 1.08, V / 1.28) ** 2
    z = 0.78 * np.sqrt(np.clip(1.02 - radius2, 0.0, None))
    z += 0.055 * blob(0.28, traits.brow_v + 0.02, 0.26, 0.075, mirrored=True)
    z -= 0.115 * blob(traits.eye_gap - 0.03, eye_v - 0.015, 0.19, 0.115, mirrored=True)
    z += 0.055 * blob(traits.eye_gap, eye_v, 0.105, 0.065, mirrored=True)
    ramp = smoothstep(eye_v - 0.2, base_v - 0.05, V) * smoothstep(base_v + 0.05, base_v - 0.06, V)
    z += (
        traits.nose_height
        * np.exp(-((U / (0.075 + 0.35 * traits.nose_width * ramp)) ** 2))
        * (0.25 + 0.75 * ramp)
        * smoothstep(base_v + 0.05, base_v - 0.05, V)
        * smoothstep(eye_v - 0.28, eye_v - 0.08, V)
    )
    z += 0.45 * traits.nose_height * blob(0, base_v - 0.06, 0.1, 0.085)
    z += 0.07 * blob(traits.nose_width, base_v - 0.035, 0.06, 0.06, mirrored=True)
    z += traits.cheekbones * blob(0.44, eye_v + 0.32, 0.2, 0.16, mirrored=True)
    full = traits.lip_fullness
    z += 0.045 * full * blob(0, mouth_v - 0.045, traits.mouth_half_width * 0.9, 0.045)
    z += 0.060 * full * blob(0, mouth_v + 0.06, traits.mouth_half_width * 0.75, 0.05)
    z -= 0.035 * blob(0, mouth_v, traits.mouth_half_width, 0.018)
    z -= 0.035 * blob(0, mouth_v + 0.165, 0.18, 0.05)
    z += 0.07 * blob(0, 0.92, 0.17, 0.1)
    fold = np.abs(U) - (traits.nose_width + 0.06 + 0.55 * (V - base_v + 0.05))
    z -= (
        0.022
        * np.exp(-((fold / 0.035) ** 2))
        * smoothstep(base_v - 0.1, base_v, V)
        * smoothstep(mouth_v + 0.1, mouth_v - 0.02, V)
    )
    return z


def _skin(traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Albedo of bare skin with lips and nostrils, before eyes, brows and hair."""
    eye_v, mouth_v, full = traits.eye_v, traits.mouth_v, traits.lip_fullness
    base_v = eye_v + 0.12 + traits.nose_length
    tone = 1 + 0.025 * grain(rng, 22, 22) + 0.022 * grain(rng, 5, 5) + 0.035 * grain(rng, 1.1, 1.1)
    albedo = tone[..., None] * np.array(traits.skin, np.float32)
    flush = 0.22 * blob(0.42, eye_v + 0.40, 0.22, 0.18, mirrored=True) + 0.2 * blob(0, base_v - 0.05, 0.12, 0.1)
    albedo = over(albedo, np.array(traits.skin, np.float32) * (1.0, 0.72, 0.70), flush)
    albedo = over(
        albedo,
        np.array(traits.skin, np.float32) * (0.62, 0.52, 0.52),
        0.42 * blob(traits.eye_gap, eye_v + 0.005, 0.2, 0.10, mirrored=True),
    )
    spots = smoothstep(1.6, 2.4, grain(rng, 1.6, 1.6)) * blob(0, eye_v + 0.3, 0.55, 0.3)
    albedo = over(albedo, np.array(traits.skin, np.float32) * (0.7, 0.55, 0.45), 0.6 * traits.freckles * spots)
    half = traits.mouth_half_width
    curve = V - mouth_v + 0.05 * (U / half) ** 2 * 0.4
    bow = 0.075 * full * (1 - (U / half) ** 2) - 0.022 * full * np.exp(-((U / 0.05) ** 2))
    lips = np.where(
        curve < 0,
        smoothstep(-bow - 0.012, -bow + 0.012, curve),
        smoothstep(0.1 * full * (1 - (U / half) ** 2) + 0.012, 0.1 * full * (1 - (U / half) ** 2) - 0.012, curve),
    )
    lips = lips * smoothstep(half, half * 0.93, np.abs(U)) * (1 + 0.10 * grain(rng, 1.2, 3))
    albedo = over(albedo, traits.lips, np.clip(0.85 * lips, 0, 1))
    seam = np.exp(-((curve / 0.014) ** 2)) * smoothstep(half * 1.06, half * 0.9, np.abs(U))
    albedo = over(albedo, np.array(traits.lips) * 0.35, 0.75 * seam)
    nostrils = blob(traits.nose_width * 0.52, base_v + 0.004, 0.038, 0.021, mirrored=True)
    return over(albedo, np.array(traits.skin) * 0.24, np.clip(1.1 * nostrils, 0, 0.9))


def _brows(albedo: np.ndarray, traits: Traits, rng: np.random.Generator) -> np.ndarray:
    u = np.abs(U) - traits.eye_gap - 0.01
    line = traits.brow_v + traits.brow_slope * u + 1.1 * u**2
    thickness = traits.brow_thickness * (1.15 - 1.6 * np.clip(u + 0.05, -0.1, 0.4))
    brow = np.exp(-(((V - line) / thickness) ** 2)) * smoothstep(0.25, 0.17, np.abs(u))
    return over(albedo, np.array(traits.hair) * 0.62, np.clip(brow * (0.82 + 0.16 * grain(rng, 1.4, 1.4)), 0, 0.93))


def _lid_line(traits: Traits, side: int, bend: float) -> list[tuple[float, float]]:
    half_u, half_v = traits.eye_size
    steps = np.linspace(-1, 1, 17)
    return [(side * traits.eye_gap + s * half_u * 1.04, traits.eye_v + bend * half_v * (1 - s * s)) for s in steps]


def _lids(albedo: np.ndarray, traits: Traits) -> np.ndarray:
    """Closed eyes: the lash line low on the lid."""
    for side in (-1, 1):
        albedo = over(albedo, np.array(traits.hair) * 0.45, 0.85 * stroke(_lid_line(traits, side, 0.75), 0.02))
    return albedo


def _eyes(albedo: np.ndarray, traits: Traits) -> np.ndarray:
    """Open eyes: sclera, iris, pupil, a highlight, the dark upper lid and the fold above it."""
    half_u, half_v = traits.eye_size
    for side in (-1, 1):
        u, v = (U - side * traits.eye_gap) / half_u, (V - traits.eye_v) / half_v
        almond = smoothstep(1.04, 0.9, np.abs(v) / np.clip(1 - u * u, 0.02, None)) * smoothstep(1.02, 0.95, np.abs(u))
        albedo = over(albedo, (222, 214, 208), almond)
        radius = np.hypot(U - side * traits.eye_gap, V - traits.eye_v + 0.1 * half_v) / (0.92 * half_v)
        albedo = over(albedo, np.array(traits.iris) * 0.55, almond * smoothstep(1.12, 0.98, radius))
        albedo = over(albedo, traits.iris, almond * smoothstep(0.95, 0.75, radius))
        albedo = over(albedo, (14, 12, 12), almond * smoothstep(0.55, 0.42, radius))
        albedo = over(albedo, (255, 255, 255), 0.85 * blob(side * traits.eye_gap - 0.018, traits.eye_v - 0.02, 0.011, 0.011))
        shade = almond * smoothstep(0.1, -0.9, v)  # the upper lid shades the ball
        albedo = albedo * (1 - 0.45 * shade)[..., None]
        albedo = over(albedo, np.array(traits.hair) * 0.4, 0.9 * stroke(_lid_line(traits, side, -1.0), 0.026))
        albedo = over(albedo, np.array(traits.skin) * 0.5, 0.35 * stroke(_lid_line(traits, side, 0.95), 0.012))
        albedo = over(albedo, np.array(traits.skin) * 0.5, 0.4 * stroke(_lid_line(traits, side, -1.7), 0.014))
    return albedo
