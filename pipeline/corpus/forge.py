"""The manipulations: each takes a filmed take and gives it back with one region of the face changed.

All of them end in the same step, `_blend`: a changed region laid over the camera's frame through a soft mask that rides on
the face, with the slight overshoot that blending leaves at its edge. Outside the mask not one pixel differs from the real
sibling. Colour and gain errors have random signs and the overshoot sums to zero, so the mean level tells nothing; what is
left are boundaries, texture and time, the traces that the field studies.

    swap      inner face of another identity, colours matched imperfectly (boundary and colour mismatch)
    flicker   the inner face shifted, turned and dimmed anew each frame (temporal jitter; single frames look almost right)
    lipsync   the mouth re-rendered to another speech signal: out of step with jaw and nods, a little soft
    upsample  the inner face from a coarse grid of cells with a checkerboard (the trace of transposed convolutions)
    smooth    the inner face without pores and noise
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from d2st.pipeline.corpus import strength
from d2st.pipeline.corpus.canvas import CANVAS_PX, U, V, smoothstep
from d2st.pipeline.corpus.film import light_head, place, pose_head
from d2st.pipeline.corpus.motion import speech
from d2st.pipeline.corpus.scene import FRAME_PX, Camera, expose
from d2st.pipeline.corpus.sculpt import Head
from d2st.pipeline.corpus.take import FPS, Footage

__all__ = ["Forged", "forge"]

Forged = tuple[list[np.ndarray], list[np.ndarray]]  # frames (256, 256, 3) uint8, masks (256, 256) float32 in 0..1


@dataclass(frozen=True)
class Edge:
    """Where and how a region is blended in, on the moving face: T of (256, 256) float32 each."""

    masks: list[np.ndarray]  # 0..1
    overshoot: list[np.ndarray]  # grey levels


def forge(method: str, footage: Footage, rng: np.random.Generator, *, donor: Head | None = None) -> Forged:
    """Manipulate a take by `method`; only "swap" takes (and needs) the `donor`."""
    region = _mouth(footage, rng) if method == "lipsync" else _inner_face(rng)
    edge = _ride(region, footage, rng.uniform(*strength.SEAM_LEVELS[method]))
    regions = _METHODS[method](footage, rng, edge) if donor is None else _swap(footage, rng, edge, donor)
    return _blend(footage.frames, regions, edge)


def _swap(footage: Footage, rng: np.random.Generator, edge: Edge, donor: Head) -> list[np.ndarray]:
    turn = np.array(footage.lamp.direction) + rng.normal(0, strength.SWAP_LAMP, 3) * (1, 0.5, 0)
    turn /= np.linalg.norm(turn)
    lit = light_head(donor, replace(footage.lamp, direction=tuple(map(float, turn))))
    camera = _generator_camera(footage, rng, strength.GENERATOR_BLUR_PX)
    regions = [
        expose(pose_head(lit, footage.act, t, maps)[..., :3].astype(np.float32), camera, rng)
        for t, maps in enumerate(footage.maps)
    ]
    inside = edge.masks[0] > 0.5
    wanted, given = footage.frames[0][inside].astype(np.float32), regions[0][inside].astype(np.float32)
    ratio = np.clip(wanted.std() / (given.std() + 1e-3), 0.75, 1.25) * (1 + rng.normal(0, strength.SWAP_CONTRAST))
    target = wanted.mean(0) + _cast(rng, strength.SWAP_COLOUR)
    return [(region - given.mean(0)) * ratio + target for region in regions]


def _flicker(footage: Footage, rng: np.random.Generator, edge: Edge) -> list[np.ndarray]:
    shift, roll, scale, gain = (
        rng.uniform(*level)
        for level in (strength.FLICKER_SHIFT_PX, strength.FLICKER_ROLL_DEG, strength.FLICKER_SCALE, strength.FLICKER_GAIN)
    )
    regions = []
    for t, frame in enumerate(footage.frames):
        middle = place(footage.act, t) @ (CANVAS_PX / 2, CANVAS_PX / 2, 1)
        jitter = cv2.getRotationMatrix2D(tuple(middle), rng.normal(0, roll), 1 + rng.normal(0, scale))
        jitter[:, 2] += rng.normal(0, shift, 2)
        moved = cv2.warpAffine(frame, jitter, (FRAME_PX, FRAME_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        regions.append(moved * np.float32(1 + rng.normal(0, gain)))
    return regions


def _lipsync(footage: Footage, rng: np.random.Generator, edge: Edge) -> list[np.ndarray]:
    act = replace(footage.act, mouth=speech(rng, len(footage.frames), fps=FPS))
    camera = _generator_camera(footage, rng, strength.LIPSYNC_BLUR_PX)
    tint = _cast(rng, strength.LIPSYNC_COLOUR)
    return [
        expose(pose_head(footage.lit, act, t, maps)[..., :3].astype(np.float32), camera, rng) + tint
        for t, maps in enumerate(footage.maps)
    ]


def _upsample(footage: Footage, rng: np.random.Generator, edge: Edge) -> list[np.ndarray]:
    cells = int(rng.integers(*strength.UPSAMPLE_CELLS))
    checker = rng.uniform(*strength.UPSAMPLE_CHECKER)
    pattern = np.where(np.indices((cells, cells)).sum(0) % 2, 1 + checker, 1 - checker).astype(np.float32)[..., None]
    to_canvas = np.array([[CANVAS_PX / cells, 0, 0], [0, CANVAS_PX / cells, 0], [0, 0, 1]])
    regions = []
    for t, frame in enumerate(footage.frames):
        grid = place(footage.act, t) @ to_canvas
        soft = cv2.GaussianBlur(frame, (0, 0), 0.4 * float(footage.act.scale[t]) * CANVAS_PX / cells)
        small = cv2.warpAffine(soft, grid, (cells, cells), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) * pattern
        flat, blocky = (
            cv2.warpAffine(small, grid, (FRAME_PX, FRAME_PX), flags=flags) for flags in (cv2.INTER_LINEAR, cv2.INTER_NEAREST)
        )
        regions.append(flat + (blocky - flat) * np.float32(strength.UPSAMPLE_NEAREST))
    return regions


def _smooth(footage: Footage, rng: np.random.Generator, edge: Edge) -> list[np.ndarray]:
    opacity = rng.uniform(*strength.SMOOTH_OPACITY)
    sigma = strength.SMOOTH_RADIUS_PX / 2
    smoothed = (cv2.bilateralFilter(frame, -1, strength.SMOOTH_LEVELS, sigma) for frame in footage.frames)
    return [cv2.addWeighted(frame, 1 - opacity, soft, opacity, 0) for frame, soft in zip(footage.frames, smoothed, strict=True)]


_METHODS: dict[str, Callable[[Footage, np.random.Generator, Edge], list[np.ndarray]]] = {
    "flicker": _flicker,
    "lipsync": _lipsync,
    "upsample": _upsample,
    "smooth": _smooth,
}


def _generator_camera(footage: Footage, rng: np.random.Generator, blur_px: tuple[float, float]) -> Camera:
    """The take's own camera, but softer and with less noise: generators reproduce the grading and lose the grain."""
    camera = footage.camera
    blur = float(np.hypot(camera.blur_px, rng.uniform(*blur_px)))
    return replace(camera, blur_px=blur, noise=camera.noise * rng.uniform(*strength.GENERATOR_NOISE))


def _cast(rng: np.random.Generator, levels: float) -> np.ndarray:
    """A colour error of random sign and hue: (3,) with about `levels` deviation a channel."""
    return rng.normal(0, 0.6 * levels, 3) + rng.normal(0, 0.8 * levels)


def _inner_face(rng: np.random.Generator) -> np.ndarray:
    """Brows to chin on the canvas, (320, 320) float32; outline and softness differ from clip to clip."""
    width, height, shift = rng.uniform(0.50, 0.58), rng.uniform(0.62, 0.70), rng.uniform(0.14, 0.20)
    return _soft((np.abs(U) / width) ** 2.4 + (np.abs(V - shift) / height) ** 2.4, rng)


def _mouth(footage: Footage, rng: np.random.Generator) -> np.ndarray:
    return _soft((U / 0.42) ** 2 + ((V - footage.lit.mouth_v - 0.07) / 0.27) ** 2, rng)


def _soft(radius2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mask = smoothstep(1.03, 0.97, radius2).astype(np.float32)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(*strength.MASK_SOFTNESS))
    return np.where(mask < 0.004, 0, np.minimum(mask, 1)).astype(np.float32)  # filters overshoot 1 by rounding


def _ride(region: np.ndarray, footage: Footage, seam: float) -> Edge:
    """A region of the canvas and its overshoot (of zero sum; `seam` levels at the peak), put on the moving face."""
    halo = region - cv2.GaussianBlur(region, (0, 0), strength.SEAM_WIDTH)
    halo = np.where(np.abs(halo) < 0.02, 0, halo) * np.float32(seam / np.abs(halo).max())
    masks, overshoot = (
        [cv2.remap(layer, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) for maps in footage.maps]
        for layer in (region, halo)
    )
    return Edge(masks, overshoot)


def _blend(frames: list[np.ndarray], regions: list[np.ndarray], edge: Edge) -> Forged:
    blended, touched = [], []
    hue = np.array(strength.SEAM_HUE, np.float32)
    for frame, region, mask, halo in zip(frames, regions, edge.masks, edge.overshoot, strict=True):
        mixed = frame + (region - frame.astype(np.float32)) * mask[..., None] + halo[..., None] * hue
        blended.append(np.clip(mixed + np.float32(0.5), 0, 255).astype(np.uint8))
        touched.append(np.maximum(mask, (halo != 0) * np.float32(0.25)))
    return blended, touched
