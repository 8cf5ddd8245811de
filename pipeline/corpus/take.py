"""One take: a person in a scene with a performance and a camera, filmed without any manipulation.

`shoot` gives the frames and everything a manipulation needs to work on them (lit head, maps, camera). A take is a pure
function of seed, identity and number, so a fake starts from exactly the pixels of its real sibling.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from d2st.pipeline.corpus.film import LitHead, compose, light_head, pose_head, warp_maps
from d2st.pipeline.corpus.motion import Performance, perform
from d2st.pipeline.corpus.scene import Camera, Lamp, draw_backdrop, draw_camera, draw_lamp, draw_shoulders, expose
from d2st.pipeline.corpus.sculpt import Head, sculpt
from d2st.pipeline.corpus.traits import draw_traits

__all__ = ["FPS", "Footage", "head_of", "shoot"]

FPS = 25
_FRAMES = (24, 31)  # a clip's length, frames, upper end excluded


@dataclass(frozen=True)
class Footage:
    """A filmed take: `frames` (T of (256, 256, 3) uint8 RGB), one pair of warp maps a frame, and how it was made."""

    frames: list[np.ndarray]
    maps: list[tuple[np.ndarray, np.ndarray]]
    act: Performance
    lit: LitHead
    lamp: Lamp
    camera: Camera


@lru_cache(maxsize=12)
def head_of(seed: int, identity: int) -> Head:
    """The head of an identity (about 60 ms; kept for the identity's other takes)."""
    return sculpt(draw_traits(np.random.default_rng([seed, 1, identity])))


@lru_cache(maxsize=4)
def shoot(seed: int, identity: int, take: int, *, still: bool) -> Footage:
    """Film a take; a `still` is a take of one frame."""
    rng = np.random.default_rng([seed, 2, identity, take])
    head = head_of(seed, identity)
    lamp, camera = draw_lamp(rng), draw_camera(rng)
    room = draw_backdrop(rng)
    shoulders = draw_shoulders(head.traits, lamp, rng)
    length = int(rng.integers(*_FRAMES))
    act = perform(rng, 1 if still else length, fps=FPS)
    lit = light_head(head, lamp)
    frames, maps = [], []
    for t in range(len(act.x)):
        maps.append(warp_maps(lit.height, act, t))
        posed = pose_head(lit, act, t, maps[t])
        frames.append(expose(compose(room, shoulders, posed, act, t), camera, rng))
    return Footage(frames, maps, act, lit, lamp, camera)
