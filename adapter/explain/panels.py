"""One frame's crop with one kind of evidence on it, as plain pictures; figures and films are laid out of these.

The decision that shaped it: evidence is coloured, the face under it is grey. Skin is orange, and so are half of the maps that look good on
it. Colours are those of Okabe and Ito, told apart by colour-blind readers: vermillion moves the logit towards fake, blue towards real.
"""

from collections.abc import Sequence

import cv2
import matplotlib as mpl
import numpy as np

from d2st.adapter.explain.looks import SampledPoints

__all__ = ["FAKE", "REAL", "attention_panel", "crop_panel", "points_panel", "relevance_panel", "strength"]

FAKE, REAL = "#D55E00", "#0072B2"
_STRONG = 99.5  # percentile of a clip's evidence that is drawn at full strength: one outlier must not fade the rest
_SHIFT = 4  # cv2 draws at 1/16 px


def strength(values: np.ndarray) -> float:
    """The magnitude of evidence (of any shape) that is drawn at full strength; the same for all frames of a clip."""
    return max(float(np.percentile(np.abs(values), _STRONG)), 1e-12)


def crop_panel(crop: np.ndarray, *, side: int) -> np.ndarray:
    """A crop (S,S,3) uint8 RGB at `side` px."""
    how = cv2.INTER_CUBIC if side > len(crop) else cv2.INTER_AREA
    return cv2.resize(crop, (side, side), interpolation=how)


def relevance_panel(crop: np.ndarray, relevance: np.ndarray, *, full: float, side: int) -> np.ndarray:
    """Relevance (H,W) over a grey crop: vermillion towards fake, blue towards real, at full strength from `full` on."""
    share = _enlarged(relevance / full, side).clip(-1, 1)[..., None]  # (side, side, 1)
    colour = np.where(share > 0, *(np.float32(mpl.colors.to_rgb(name)) * 255 for name in (FAKE, REAL)))
    return _blend(_grey(crop, side), colour, 0.9 * np.abs(share))


def attention_panel(crop: np.ndarray, attention: np.ndarray, *, even: float, full: float, side: int) -> np.ndarray:
    """Attention (H,W) over a grey crop, in viridis from `even` to `full`; what gets no more than its even share stays grey."""
    share = _enlarged((attention - even) / max(full - even, 1e-12), side).clip(0, 1)
    colour = mpl.colormaps["viridis"](share)[..., :3].astype(np.float32) * 255
    return _blend(_grey(crop, side), colour, 0.85 * share[..., None] ** 0.5)


def points_panel(
    crop: np.ndarray,
    points: Sequence[SampledPoints],
    *,
    frame: int,
    frames: int,
    grid: tuple[int, int],
    full_weight: float,
    full_effect: float,
    side: int,
) -> np.ndarray:
    """Sampled places on a grey crop: area is the attention a place gets, colour what it does to the logit, white for nothing.

    A place between two frames is drawn on the nearer one; one outside of the clip's time on none. Weakest first, so that strong ones are on
    top.
    """
    picture = _grey(crop, side).astype(np.uint8)
    shown = [row for body in points for row in _rows(body) if 0 <= round(row[0]) < frames and round(row[0]) == frame]
    cell = np.array([side / grid[0], side / grid[1]])
    for _, row, column, weight, effect in sorted(shown, key=lambda each: abs(each[4])):
        y, x = (np.array([row, column]) + 0.5) * cell - 0.5
        radius = 0.035 * side * float(np.sqrt(min(weight / full_weight, 1.0)))
        share = min(abs(effect) / full_effect, 1.0) ** 0.7
        ink = np.float64(mpl.colors.to_rgb(FAKE if effect > 0 else REAL)) * 255
        colour = tuple(map(float, ink * share + 255 * (1 - share)))
        centre, size = tuple(round(v * 2**_SHIFT) for v in (x, y)), round(radius * 2**_SHIFT)
        cv2.circle(picture, centre, size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture, centre, size, (30.0, 30.0, 30.0), 1, cv2.LINE_AA, _SHIFT)
    return picture


def _rows(body: SampledPoints) -> list[tuple[float, ...]]:
    """(frame, row, column, weight, effect) of each place of each group that lies in the clip at least by half."""
    table = np.concatenate([body.places, body.weight[..., None], body.effect[..., None]], axis=-1)  # (n, G, 5)
    return [tuple(map(float, row)) for row in table[body.inside >= 0.5]]


def _enlarged(values: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(values.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)


def _grey(crop: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float32, a little lifted, so that dark colours show on it."""
    grey = cv2.cvtColor(crop_panel(crop, side=side), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat((40 + grey * (215 / 255))[..., None], 3, axis=-1)


def _blend(under: np.ndarray, over: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return np.rint(under * (1 - opacity) + over * opacity).clip(0, 255).astype(np.uint8)
