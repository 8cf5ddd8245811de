"""Clips as row numbers of the flat cache, and the augmentation of time.

Dropping, reversing and jittering frames is done here, on integers, before anything is read: it costs nothing, and a frame that is dropped
is never loaded. Order is kept except for reversal, since swapped neighbours would forge the very jitter that stage 2 looks for.
"""

import numpy as np

from d2st.adapter.rows import PADDING, clip_table

__all__ = ["clip_batch", "frame_batch"]


def frame_batch(start: np.ndarray, frames: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """One frame of each sample, uniformly drawn: rows (B, 1) int64."""
    return (start + rng.integers(0, frames))[:, None]


def clip_batch(
    start: np.ndarray,
    frames: np.ndarray,
    clip_frames: int,
    *,
    rng: np.random.Generator,
    jitter: float = 0.0,
    reverse: float = 0.0,
    frame_drop: float = 0.0,
) -> np.ndarray:
    """A clip of each sample: rows (B, T') int64, T' <= T, padding as a suffix.

    Args:
        start, frames: (B,) first row and number of cached frames of each sample.
        clip_frames: T.
        jitter: probability that a clip takes a random frame of each of its T parts instead of the middle ones (Wang et al., TSN,
            ECCV 2016); nothing changes where no more than T frames are cached.
        reverse: probability that a clip runs backwards.
        frame_drop: probability that a frame is left out; at least half of a clip stays. How many are left out is drawn once a batch and
            which ones for each clip, so that a batch keeps one length T' <= T and pays for no padding.
    """
    rows = clip_table(start, frames, clip_frames)  # (B, T)
    if jitter:
        parts = np.arange(clip_frames)
        low, high = (
            parts * frames[:, None] // clip_frames,
            (parts + 1) * frames[:, None] // clip_frames,
        )  # (B, T), part k is [low, high)
        chosen = (rng.random(len(start)) < jitter) & (frames > clip_frames)
        drawn = start[:, None] + rng.integers(low, np.maximum(high, low + 1))
        rows = np.where(chosen[:, None], drawn, rows)
    if frame_drop:
        kept = max((clip_frames + 1) // 2, clip_frames - int(rng.binomial(clip_frames, frame_drop)))
        rows = _keep_random(rows, kept, rng)  # (B, kept)
    if reverse:
        valid = (rows != PADDING).sum(1, keepdims=True)  # (B, 1)
        place = np.arange(rows.shape[1])
        backwards = np.take_along_axis(rows, np.where(place < valid, valid - 1 - place, place), 1)
        rows = np.where((rng.random(len(start)) < reverse)[:, None], backwards, rows)
    return rows


def _keep_random(rows: np.ndarray, kept: int, rng: np.random.Generator) -> np.ndarray:
    """`kept` random frames of each clip in their order, all where there are no more: (B, T) -> (B, kept)."""
    luck = np.where(rows == PADDING, 2.0, rng.random(rows.shape))  # padding is chosen last
    places = np.sort(np.argsort(luck, axis=1)[:, :kept], axis=1)
    return np.take_along_axis(rows, places, 1)
