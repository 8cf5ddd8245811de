"""Who a synthetic person is: a few dozen numbers drawn once for each identity.

Everything that makes a face recognisable lives here and nothing of a single shot does, so that the clips of one identity
look like one person and a swap (inner face of another identity) is a change of person and not of light.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Rgb", "Traits", "draw_traits"]

Rgb = tuple[float, float, float]

# sRGB, 0..255: from very light to very dark skin, and the common colours of hair and iris
_SKINS: tuple[Rgb, ...] = (
    (232, 198, 176),
    (222, 182, 154),
    (212, 168, 136),
    (190, 144, 110),
    (160, 114, 84),
    (128, 88, 64),
    (104, 70, 52),
)
_HAIRS: tuple[Rgb, ...] = (
    (30, 25, 23),
    (52, 36, 28),
    (84, 57, 38),
    (126, 88, 54),
    (178, 140, 88),
    (122, 60, 38),
    (142, 140, 138),
)
_IRISES: tuple[Rgb, ...] = ((70, 46, 30), (92, 64, 38), (84, 104, 70), (86, 116, 142), (58, 42, 32))
_STYLES = ("short", "short", "fringe", "fringe", "side", "side", "long", "long", "long", "bald")
_BEARDS = ("none", "none", "none", "stubble", "full", "moustache")
_GLASSES = ("none", "none", "none", "round", "square")


@dataclass(frozen=True)
class Traits:
    """One identity. Lengths are in face units: 1 is about half of the height from hairline to chin."""

    skin: Rgb
    hair: Rgb
    iris: Rgb
    lips: Rgb
    style: str
    beard: str
    glasses: str
    half_width: float
    jaw: float  # how much the face narrows towards the chin
    eye_gap: float  # from the middle line to the centre of an eye
    eye_v: float
    eye_size: tuple[float, float]  # half width, half height
    brow_v: float
    brow_thickness: float
    brow_slope: float
    nose_length: float
    nose_width: float
    nose_height: float
    mouth_v: float
    mouth_half_width: float
    lip_fullness: float
    cheekbones: float
    hairline_v: float
    freckles: float
    texture_seed: int


def draw_traits(rng: np.random.Generator) -> Traits:
    """A new person from `rng`; the ranges are wide enough to tell people apart and narrow enough to stay human."""
    skin = _mix(rng, _SKINS, 6.0)
    darkness = sum(skin) / 765.0
    hair = _mix(rng, _HAIRS if darkness > 0.55 else _HAIRS[:3], 8.0)
    style, beard = str(rng.choice(_STYLES)), str(rng.choice(_BEARDS))
    if style == "long":
        beard = "none"
    redness = rng.uniform(0.15, 0.5)
    lips = tuple(float(c) for c in np.array(skin) * (1 - redness) * 0.94 + np.array((170, 62, 70)) * redness)
    return Traits(
        skin=skin,
        hair=hair,
        iris=_mix(rng, _IRISES, 6.0),
        lips=lips,
        style=style,
        beard=beard,
        glasses=str(rng.choice(_GLASSES)),
        half_width=rng.uniform(0.70, 0.82),
        jaw=rng.uniform(0.05, 0.30),
        eye_gap=rng.uniform(0.30, 0.36),
        eye_v=rng.uniform(-0.17, -0.10),
        eye_size=(rng.uniform(0.125, 0.155), rng.uniform(0.048, 0.068)),
        brow_v=rng.uniform(-0.39, -0.33),
        brow_thickness=rng.uniform(0.026, 0.05),
        brow_slope=rng.uniform(-0.14, 0.10),
        nose_length=rng.uniform(0.26, 0.35),
        nose_width=rng.uniform(0.10, 0.15),
        nose_height=rng.uniform(0.15, 0.24),
        mouth_v=rng.uniform(0.55, 0.62),
        mouth_half_width=rng.uniform(0.22, 0.31),
        lip_fullness=rng.uniform(0.7, 1.4),
        cheekbones=rng.uniform(0.03, 0.08),
        hairline_v=rng.uniform(-0.92, -0.76),
        freckles=float(rng.choice((0.0, 0.0, rng.uniform(0.3, 1.0)))),
        texture_seed=int(rng.integers(2**31)),
    )


def _mix(rng: np.random.Generator, palette: tuple[Rgb, ...], spread: float) -> Rgb:
    """A colour between two neighbours of the palette, with a little of its own."""
    i = int(rng.integers(len(palette) - 1))
    t = rng.random()
    colour = np.array(palette[i]) * (1 - t) + np.array(palette[i + 1]) * t + rng.normal(0, spread, 3) * 0.5
    r, g, b = (float(c) for c in np.clip(colour, 12, 248))
    return r, g, b
