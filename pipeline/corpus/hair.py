"""Hair, beards and glasses: what is laid over the bare head.

Each function takes the albedo being built and gives it back; all three are textures and opacities, no geometry, because
at 256 px the outline and the strands are what the eye and the detector see.
"""

import numpy as np

from d2st.pipeline.corpus.canvas import U, V, blob, grain, over, smoothstep, stroke
from d2st.pipeline.corpus.traits import Traits

__all__ = ["add_beard", "add_glasses", "add_hair", "add_scalp"]

Layer = tuple[np.ndarray, np.ndarray]  # albedo (320, 320, 3) float32 0..255, opacity (320, 320) float32 0..1


def add_scalp(traits: Traits, rng: np.random.Generator) -> Layer:
    """The hair that lies behind the face (back of the head, long hair beside the neck)."""
    radius = np.sqrt((U / (traits.half_width + 0.10)) ** 2 + ((V + 0.1) / 1.22) ** 2)
    opacity = smoothstep(1.02, 0.95, radius)
    if traits.style == "long":
        curtain = smoothstep(1.0, 0.93, np.abs(U) / (traits.half_width + 0.17 + 0.05 * np.sin(5 * V)))
        opacity = np.maximum(opacity, curtain * smoothstep(-0.5, -0.3, V) * smoothstep(1.35, 1.15, V))
    elif traits.style == "bald":
        opacity = opacity * 0
    else:
        opacity = opacity * smoothstep(0.35, 0.1, V)
    strands = 0.62 + 0.13 * grain(rng, 1.2, 14.0)
    return strands[..., None] * np.array(traits.hair, np.float32), opacity


def add_hair(albedo: np.ndarray, face: np.ndarray, traits: Traits, rng: np.random.Generator) -> Layer:
    """Hair on top: a cap above the hairline, a fringe or a parting. `face` is the opacity of the bare head."""
    if traits.style == "bald":
        cropped = smoothstep(-0.45, -0.6, V + 0.25 * np.abs(U)) * 0.12 * face
        return over(albedo, traits.hair, cropped), face
    line = traits.hairline_v + 0.05 * np.sin(3 * U + traits.texture_seed % 7)
    line = line + 0.55 * smoothstep(0.38, traits.half_width + 0.02, np.abs(U))  # down the temples
    if traits.style == "fringe":
        line = line + 0.26 * smoothstep(0.62, 0.3, np.abs(U))
    elif traits.style == "side":
        line = line + 0.22 * smoothstep(-0.15, 0.55, U)
    line = line + 0.02 * grain(rng, 2.0, 30.0)
    radius = np.sqrt((U / (traits.half_width + 0.07)) ** 2 + ((V + 0.02) / 1.3) ** 2)
    cap = smoothstep(1.01, 0.97, radius) * smoothstep(0.03, -0.05, V - line)
    shine = 0.24 * blob(-0.2, -1.02, 0.4, 0.12) + 0.10 * blob(0.35, -0.95, 0.2, 0.1)
    strands = np.clip(0.86 + 0.17 * grain(rng, 1.0, 9.0) + shine, 0.3, 1.6)
    shadow = 0.30 * face * smoothstep(0.13, 0.0, V - line) * (1 - cap)  # the cap shades the brow below it
    albedo = over(albedo * (1 - shadow)[..., None], strands[..., None] * np.array(traits.hair, np.float32), cap)
    return albedo, np.maximum(face, cap)


def add_beard(albedo: np.ndarray, traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Stubble, a full beard or a moustache, around the mouth and along the jaw."""
    if traits.beard == "none":
        return albedo
    mouth = traits.mouth_v
    lips = blob(0, mouth + 0.01, traits.mouth_half_width * 0.95, 0.075)
    lip_gap = smoothstep(0.62, 0.3, lips)
    lower = smoothstep(mouth - 0.26, mouth + 0.02, V + 0.22 * np.abs(U) - 0.1) * smoothstep(
        0.16, 0.3, np.abs(U) + (V - mouth + 0.30)
    )
    upper = np.exp(-(((V - mouth + 0.125) / 0.055) ** 2)) * smoothstep(0.34, 0.22, np.abs(U))
    area = {"stubble": np.maximum(lower, upper), "full": np.maximum(lower, upper), "moustache": upper}[traits.beard]
    density = {"stubble": 0.24, "full": 0.66, "moustache": 0.6}[traits.beard]
    tufts = np.clip(1 + 0.3 * grain(rng, 0.9, 2.2), 0.2, 1.6)
    return over(albedo, np.array(traits.hair, np.float32) * 0.9, np.clip(area * lip_gap * density * tufts, 0, 0.92))


def add_glasses(albedo: np.ndarray, traits: Traits) -> np.ndarray:
    """Thin frames with lightly tinted lenses, on both textures (eyes open and eyes closed)."""
    if traits.glasses == "none":
        return albedo
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = 1.0 if traits.glasses == "round" else 0.55  # a superellipse: 1 is an ellipse, less is squarer
    cos, sin = np.cos(angles), np.sin(angles)
    ring_u, ring_v = np.sign(cos) * np.abs(cos) ** power * 0.235, np.sign(sin) * np.abs(sin) ** power * 0.185
    v = traits.eye_v + 0.03
    frame = np.zeros_like(U)
    for side in (-1, 1):
        rim = [(side * traits.eye_gap + du, v + dv) for du, dv in zip(ring_u, ring_v, strict=True)]
        frame = np.maximum(frame, stroke(rim, 0.028, closed=True))
        temple = [(side * (traits.eye_gap + 0.235), v - 0.03), (side * (traits.half_width + 0.03), v - 0.05)]
        frame = np.maximum(frame, stroke(temple, 0.025))
    frame = np.maximum(
        frame, stroke([(-traits.eye_gap + 0.235, v - 0.03), (0, v - 0.05), (traits.eye_gap - 0.235, v - 0.03)], 0.025)
    )
    lens = 0.07 * smoothstep(1.05, 0.95, np.hypot((np.abs(U) - traits.eye_gap) / 0.235, (V - v) / 0.185))
    return over(over(albedo, (226, 236, 242), lens), (44, 38, 36), 0.85 * frame)
