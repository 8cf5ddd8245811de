"""What a person does in a clip: head pose, blinks and a mouth that follows a smooth random "speech" signal.

Speech also nods the head and lifts the jaw line (see `film`), as it does in people. A mouth that is driven by another
signal is therefore out of step with something that a detector can see, without any sound.
"""

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Performance", "perform", "speech"]


@dataclass(frozen=True)
class Performance:
    """One clip's motion, every array (T,) float32."""

    x: np.ndarray  # where the middle of the face is, px from the middle of the picture
    y: np.ndarray
    scale: np.ndarray  # picture px a canvas px
    roll: np.ndarray  # radians
    yaw: np.ndarray  # sideways shift of what sticks out, canvas px a face unit of height
    pitch: np.ndarray
    mouth: np.ndarray  # opening, face units
    pucker: np.ndarray  # narrowing of the mouth, a ratio
    lids: np.ndarray  # 0 open, 1 closed


def perform(rng: np.random.Generator, frames: int, *, fps: float) -> Performance:
    """A performance of `frames` frames; slow drifts around a pose that differs from clip to clip."""
    mouth = speech(rng, frames, fps=fps)
    talk = cv2.GaussianBlur(mouth.reshape(-1, 1), (1, 0), sigmaX=0.1, sigmaY=0.12 * fps).ravel()
    return Performance(
        x=rng.normal(0, 8) + 3.5 * _drift(rng, frames, 0.45 * fps),
        y=rng.normal(6, 5) + 2.5 * _drift(rng, frames, 0.45 * fps) + 14 * talk,
        scale=np.float32(rng.uniform(0.68, 0.82)) * (1 + 0.012 * _drift(rng, frames, 0.6 * fps)),
        roll=rng.normal(0, 0.07) + 0.025 * _drift(rng, frames, 0.4 * fps),
        yaw=rng.normal(0, 10) + 5 * _drift(rng, frames, 0.4 * fps),
        pitch=rng.normal(0, 3) + 2.5 * _drift(rng, frames, 0.4 * fps) + 20 * talk,
        mouth=mouth,
        pucker=0.06 * _drift(rng, frames, 0.16 * fps),
        lids=_blinks(rng, frames, fps=fps),
    )


def speech(rng: np.random.Generator, frames: int, *, fps: float) -> np.ndarray:
    """Opening of a talking mouth, (T,) float32 face units, 0..0.2: syllables (4 to 5 a second) within phrases."""
    syllables = 0.5 + 0.75 * _drift(rng, frames, 0.075 * fps)
    phrase = np.clip(0.75 + 0.45 * _drift(rng, frames, 0.5 * fps), 0.15, 1.2)
    return (0.2 * np.tanh(np.clip(syllables, 0, None) * phrase * 0.62)).astype(np.float32)


def _drift(rng: np.random.Generator, frames: int, sigma: float) -> np.ndarray:
    """Smooth noise of unit deviation (over many clips), (T,) float32; `sigma` is the smoothing in frames."""
    pad = int(4 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-pad, pad + 1) / max(sigma, 1e-3)) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    return np.convolve(rng.standard_normal(frames + 2 * pad), kernel, "valid").astype(np.float32)


def _blinks(rng: np.random.Generator, frames: int, *, fps: float) -> np.ndarray:
    """Lids over time: a resting opening and about one blink of a fifth of a second every 1.5 s."""
    lids = np.full(frames, max(0.0, rng.normal(0.05, 0.06)), np.float32)
    time_s = np.arange(frames) / fps
    for _ in range(int(rng.poisson(frames / fps / 1.5))):
        lids = np.maximum(lids, np.exp(-(((time_s - rng.uniform(0, frames / fps)) / 0.075) ** 2)))
    return np.clip(lids, 0, 1).astype(np.float32)
