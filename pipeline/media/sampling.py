"""Which frames of a video are taken: a pure function of how many there are.

Segment centres rather than linspace: the first and last frames of a video (black, title, cut) are the least typical ones.
"""

from d2st.cache.errors import ConfigError, UnknownNameError

__all__ = ["SAMPLINGS", "sample_indices"]

SAMPLINGS = ("even", "clip")


def sample_indices(frame_count: int, frames: int, sampling: str) -> list[int]:
    """Return `frames` increasing indices below `frame_count`; all of them, once each, when there are fewer.

    "even": floor((k + 0.5) * frame_count / frames), the centres of equal parts. "clip": neighbouring frames from the middle.
    Raises UnknownNameError for another sampling and ConfigError for frames < 1.
    """
    if sampling not in SAMPLINGS:
        raise UnknownNameError("sampling", sampling, list(SAMPLINGS))
    if frames < 1:
        raise ConfigError(f"{frames} frames can't be sampled", fix="Ask for at least one frame.")
    if frame_count <= frames:
        return list(range(frame_count))
    if sampling == "even":
        return [(2 * k + 1) * frame_count // (2 * frames) for k in range(frames)]
    start = (frame_count - frames) // 2
    return list(range(start, start + frames))
