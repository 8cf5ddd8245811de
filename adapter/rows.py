"""Which rows of the flat cache a sample contributes: the one rule that training and evaluation share.

Frames are chosen at the centres of T equal parts of what is cached, floor((k + 0.5) * N / T), the same rule that the decoder uses on the
video. So a cache of 32 frames gives a clip of 12 that covers the whole video, and a cache of exactly 12 gives its own rows back.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["PADDING", "clip_rows", "clip_table", "pad_rows"]

PADDING = -1  # a place in a clip that no frame fills; always a suffix


def clip_rows(start: int, frames_cached: int, clip_frames: int) -> list[int]:
    """Rows of one clip of `clip_frames` frames: min(clip_frames, frames_cached) strictly rising row numbers of the flat array.

    Args:
        start: the sample's first row.
        frames_cached: N >= 1, how many rows the sample has.
        clip_frames: T >= 1, how many the model looks at. N <= T gives all N once; who needs exactly T pads (`pad_rows`).
    """
    if frames_cached < 1 or clip_frames < 1:
        raise ValueError(f"frames_cached and clip_frames must be at least 1, got {frames_cached} and {clip_frames}")
    if frames_cached <= clip_frames:
        return list(range(start, start + frames_cached))
    return [start + (2 * k + 1) * frames_cached // (2 * clip_frames) for k in range(clip_frames)]


def clip_table(start: np.ndarray, frames_cached: np.ndarray, clip_frames: int) -> np.ndarray:
    """Rows of many clips at once, those of `clip_rows` padded as `pad_rows` does: int64 (B, T).

    Args:
        start, frames_cached: (B,) of each sample. clip_frames: T.
    """
    place, frames = np.arange(clip_frames), frames_cached[:, None]
    chosen = np.where(frames > clip_frames, (2 * place + 1) * frames // (2 * clip_frames), place)  # (B, T)
    return np.where(place < frames, start[:, None] + chosen, PADDING)


def pad_rows(clips: Sequence[Sequence[int]], clip_frames: int) -> np.ndarray:
    """Clips of at most T rows each as one int64 array (B, T), short ones filled with `PADDING` at the end."""
    rows = np.full((len(clips), clip_frames), PADDING, dtype=np.int64)  # (B, T)
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows
