"""Read sampled frames with PyAV, in sequence from the first frame: right for every readable file that was tried.

Sampling needs the true number of frames, which only decoding tells. So the number of packets serves as a guess, the frames it
asks for are kept on the way, and a second pass is made only if the guess was wrong. No other frame is held in memory.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from d2st.pipeline.media.container import count_indexed, open_video, packets
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.probe import Probe, quarter_turns
from d2st.pipeline.media.sampling import sample_indices
from d2st.pipeline.media.types import ASSUMED_FPS, MAX_FRAMES, MAX_PIXELS, Frames, MediaInfo

__all__ = ["read_pyav", "upright"]


@dataclass
class _Pass:
    """What one run through the file gave: the times of all frames, and the pictures that were wanted."""

    times_s: list[float | None] = field(default_factory=list)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    rotation: int = 0
    frames_lost: int = 0
    error: Exception | None = None


def read_pyav(path: str | Path, probe: Probe, *, frames: int, sampling: str) -> Frames:
    """Read `frames` frames by their index among those that decode. Raises MediaError("truncated" | "decode_failed" | ...)."""
    found = _decode(path, set(sample_indices(probe.packets, frames, sampling)))
    count = len(found.times_s)
    indices = sample_indices(count, frames, sampling)
    if not set(indices) <= found.images.keys() and count != probe.packets:
        found = _decode(path, set(indices))
    indices = [index for index in indices if index in found.images]  # less those that could not be converted
    if not indices:
        raise media_error("decode_failed" if found.error else "truncated", path, found.error or "")
    images = tuple(found.images[index] for index in indices)
    times_s = _repair_times(found.times_s, probe.fps)
    info = MediaInfo(
        decoder=f"pyav {av.__version__}",
        frame_count=count,
        fps=probe.fps,
        width=images[0].shape[1],
        height=images[0].shape[0],
        rotation=found.rotation,
        codec=probe.codec,
        pix_fmt=probe.pix_fmt,
        frames_lost=found.frames_lost,
    )
    return Frames(images, tuple(indices), tuple(times_s[index] for index in indices), info)


def _decode(path: str | Path, wanted: set[int]) -> _Pass:
    """Decode the whole file once, packet by packet, passing over the damaged ones; keep the frames in `wanted`."""
    found = _Pass()
    with open_video(path) as (container, stream):
        seen = shown = 0
        for packet in packets(container, stream):
            seen += 1
            shown += not packet.is_discard  # an edit list hides the others
            _take(path, packet, found, wanted, stream.time_base)
        _take(path, stream, found, wanted, stream.time_base)  # what the decoder still holds
        cut_off = max(0, count_indexed(container, stream) - seen)
        if found.error is not None or cut_off:
            found.frames_lost = max(found.frames_lost, shown + cut_off - len(found.times_s))
    return found


def _take(path: str | Path, source: av.Packet | av.VideoStream, found: _Pass, wanted: set[int], time_base: Fraction) -> None:
    try:
        frames = source.decode()
    except MemoryError:
        raise
    except Exception as error:  # not only FFmpegError: damaged metadata raises UnicodeDecodeError, AttributeError, ...
        found.error = error
        return
    for frame in frames:
        index = len(found.times_s)
        if index >= MAX_FRAMES or frame.width * frame.height > MAX_PIXELS:
            raise media_error("too_large", path, f"frame {index}: {frame.width} x {frame.height} pixels")
        # not frame.time: NaN for the last frames, which come without a packet
        found.times_s.append(None if frame.pts is None else float(frame.pts * time_base))
        if index not in wanted:
            continue
        found.rotation = -90 * quarter_turns(frame) % 360
        try:
            found.images[index] = upright(frame)
        except (ValueError, av.FFmpegError) as error:
            found.error = error
            found.frames_lost += 1


def upright(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as the stream says. Raises ValueError or FFmpegError for a frame that can't be converted."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns(frame)))


def _repair_times(times_s: list[float | None], fps: float | None) -> list[float]:
    """The container's times from the first frame on, where they are complete and increase; index / fps for all otherwise."""
    known = [time for time in times_s if time is not None]
    if len(known) == len(times_s) and all(a < b for a, b in pairwise(known)):
        return [float(time - known[0]) for time in known]
    return [index / (fps or ASSUMED_FPS) for index in range(len(times_s))]
