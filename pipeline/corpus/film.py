"""A person filmed: lit head, moving mouth and lids, pose, background, camera.

A head is lit once a clip and then only warped, which is what makes thousands of frames affordable: a frame costs one
small warp of the mouth, one warp of the whole head (pose and, by the height of the relief, yaw and pitch) and one blend.
The warp maps of each frame are handed on, since manipulations use them to hit the same place of the face.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from d2st.pipeline.corpus.canvas import CANVAS_PX, UNIT_PX, U, V, smoothstep
from d2st.pipeline.corpus.motion import Performance
from d2st.pipeline.corpus.scene import BODY_UNIT_PX, FRAME_PX, Lamp
from d2st.pipeline.corpus.sculpt import Head

__all__ = ["LitHead", "compose", "light_head", "place", "pose_head", "warp_maps"]

_GRID_X, _GRID_Y = np.meshgrid(np.arange(FRAME_PX, dtype=np.float32), np.arange(FRAME_PX, dtype=np.float32))
_CANVAS_X, _CANVAS_Y = np.meshgrid(np.arange(CANVAS_PX, dtype=np.float32), np.arange(CANVAS_PX, dtype=np.float32))


@dataclass(frozen=True)
class LitHead:
    """A head under one lamp: uint8 RGBA textures of the canvas (320, 320, 4), and what moving it needs."""

    opened: np.ndarray
    closed: np.ndarray
    height: np.ndarray
    mouth_v: float
    mouth_half_width: float
    eye_v: float
    eye_half_height: float


def light_head(head: Head, lamp: Lamp) -> LitHead:
    """Light the relief: ambient light dimmed in hollows, a key light (Lambert), a small gloss (Blinn), a nose shadow."""
    direction = np.array(lamp.direction, np.float32)
    half = direction + np.array((0, 0, 1), np.float32)
    half /= np.linalg.norm(half)
    diffuse = np.clip(head.normal @ direction, 0, 1)
    gloss = 34 * np.clip(head.normal @ half, 0, 1) ** 28 * head.matte
    nose_v = head.traits.eye_v + 0.1 + head.traits.nose_length
    cast = np.exp(-(((U + 0.32 * direction[0]) / 0.16) ** 2) - ((V - nose_v + 0.25 * direction[1]) / 0.09) ** 2)
    shade = (lamp.ambient + lamp.strength * diffuse * (1 - 0.30 * cast)) * head.cavity
    tint = np.array(lamp.tint, np.float32)

    def bake(albedo: np.ndarray) -> np.ndarray:
        colour = (albedo * shade[..., None] + gloss[..., None]) * tint
        return np.clip(np.dstack([colour, 255 * head.opacity]) + 0.5, 0, 255).astype(np.uint8)

    traits = head.traits
    return LitHead(
        bake(head.open_eyes),
        bake(head.closed_eyes),
        head.height,
        traits.mouth_v,
        traits.mouth_half_width,
        traits.eye_v,
        traits.eye_size[1],
    )


def place(act: Performance, t: int) -> np.ndarray:
    """The similarity that takes canvas pixels to picture pixels in frame `t`, (2, 3) float64."""
    cos, sin = np.cos(act.roll[t]) * act.scale[t], np.sin(act.roll[t]) * act.scale[t]
    middle, centre = (CANVAS_PX - 1) / 2, (FRAME_PX - 1) / 2
    forward = np.array([[cos, -sin, 0], [sin, cos, 0]], np.float64)
    forward[:, 2] = (centre + act.x[t], centre + act.y[t]) - forward[:, :2] @ (middle, middle)
    return forward


def warp_maps(height: np.ndarray, act: Performance, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each picture pixel of frame `t` comes from on the canvas: x and y maps, (256, 256) float32 each."""
    forward = place(act, t)
    (a, b, c), (d, e, f) = cv2.invertAffineTransform(forward).astype(np.float32)
    relief = cv2.warpAffine(height, forward, (FRAME_PX, FRAME_PX), flags=cv2.INTER_LINEAR)
    relief = relief - np.float32(0.4)  # the neck end of the axis of rotation
    return a * _GRID_X + b * _GRID_Y + c - act.yaw[t] * relief, d * _GRID_X + e * _GRID_Y + f - act.pitch[t] * relief


def pose_head(head: LitHead, act: Performance, t: int, maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The head in frame `t`: (256, 256, 4) uint8 RGBA."""
    canvas = _blink(head, float(act.lids[t]))
    canvas = _talk(canvas, head, float(act.mouth[t]), float(act.pucker[t]))
    return cv2.remap(canvas, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def compose(room: np.ndarray, shoulders: np.ndarray, head: np.ndarray, act: Performance, t: int) -> np.ndarray:
    """Background, shoulders (following the head by half) and head, (256, 256, 3) float32 0..255."""
    scale = float(act.scale[t]) * UNIT_PX / BODY_UNIT_PX
    centre = (FRAME_PX - 1) / 2
    x, y = 0.5 * (act.x[t] + act.x.mean()), 0.5 * (act.y[t] + act.y.mean())
    move = np.array([[scale, 0, centre * (1 - scale) + x], [0, scale, centre * (1 - scale) + y]])
    body = cv2.warpAffine(shoulders, move, (FRAME_PX, FRAME_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture = room + (body[..., :3] - room) * body[..., 3:]
    opacity = head[..., 3:].astype(np.float32) * np.float32(1 / 255)
    return picture + (head[..., :3] - picture) * opacity


def _blink(head: LitHead, closing: float) -> np.ndarray:
    """Lids at `closing` (0 open, 1 closed): the closed texture above a line that moves down."""
    canvas = head.opened.copy()
    if closing < 0.02:
        return canvas
    top, bottom = (round((head.eye_v + k * 0.13) * UNIT_PX + CANVAS_PX / 2) for k in (-1, 1))
    rows = slice(top, bottom)
    line = head.eye_v + head.eye_half_height * (2.4 * closing - 1.1)
    lid = smoothstep(line + 0.012, line - 0.012, V[rows])[..., None]
    if closing > 0.85:
        lid = np.ones_like(lid)
    canvas[rows] = (head.opened[rows] * (1 - lid) + head.closed[rows] * lid + 0.5).astype(np.uint8)
    return canvas


def _talk(canvas: np.ndarray, head: LitHead, opening: float, pucker: float) -> np.ndarray:
    """Open the mouth: what lies below the lips moves down with the jaw, the dark inside and the teeth show."""
    top = round((head.mouth_v - 0.22) * UNIT_PX + CANVAS_PX / 2)
    rows, columns = slice(top, top + 96), slice(CANVAS_PX // 2 - 82, CANVAS_PX // 2 + 82)
    u, v = U[rows, columns], V[rows, columns] - head.mouth_v
    lips = np.sqrt(np.clip(1 - (u / head.mouth_half_width) ** 2, 0, 1))
    jaw = np.exp(-((u / 0.62) ** 2))
    near = np.exp(-np.abs(v) / 0.10)
    drop = (
        (lips * near + jaw * (1 - near))
        * np.exp(-((v / 0.55) ** 2))
        * smoothstep(0.74, 0.5, v)
        * smoothstep(0.82, 0.6, np.abs(u))
    )
    pull = np.where(v > 0, 0.8 * drop, -0.18 * lips * np.exp(-((v / 0.1) ** 2))) * np.float32(opening * UNIT_PX)
    squeeze = pucker * UNIT_PX * u * np.exp(-((u / 0.42) ** 2) - (v / 0.2) ** 2)
    map_x, map_y = _CANVAS_X[rows, columns] + squeeze, _CANVAS_Y[rows, columns] - pull
    patch = cv2.remap(canvas, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR).astype(np.float32)
    if opening > 0.004:
        upper, lower = -0.18 * opening * lips, 0.8 * opening * lips
        inside = (
            smoothstep(-0.008, 0.008, v - upper)
            * smoothstep(-0.008, 0.008, lower - v)
            * smoothstep(0.98, 0.9, np.abs(u) / head.mouth_half_width)
        )
        teeth = (
            smoothstep(0.0, 0.015, v - upper)
            * smoothstep(0.055, 0.04, v - upper)
            * smoothstep(0.75, 0.6, np.abs(u) / head.mouth_half_width)
        )
        flesh = np.array((58, 20, 22), np.float32) + teeth[..., None] * np.array((128, 150, 138), np.float32)
        patch[..., :3] += (flesh - patch[..., :3]) * inside[..., None]
    canvas[rows, columns] = np.clip(patch + 0.5, 0, 255).astype(np.uint8)
    return canvas
