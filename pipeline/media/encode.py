"""Write small H.264 .mp4 files: the demo corpus and the tests make their media with it.

The same frames give the same bytes on every run: one thread, x264 without CPU-dependent choices, and no dates or versions from
the muxer. Only libx264 is used (every PyAV wheel carries it); a build without it is an error, since another codec would
change what the demo measures without a word.
"""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from d2st.cache.errors import ConfigError

__all__ = ["write_h264"]


def write_h264(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    crf: float = 18,
    keyframe_interval: int = 50,
    preset: str = "veryfast",
) -> int:
    """Encode `frames`, each (H, W, 3) uint8 RGB of one even size, as H.264 4:2:0 in MP4; return their number.

    `crf` is x264's quality (0 best, 51 worst), `keyframe_interval` the most frames between key frames, `preset` x264's speed.
    The file appears under its name only when it is complete. Raises ConfigError for no frames, an odd or changing size,
    another dtype, and a PyAV without libx264.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            count = _encode(container, frames, fps=fps, crf=crf, keyframe_interval=keyframe_interval, preset=preset)
        os.replace(partial, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", fix=error.fix) from None
    finally:
        partial.unlink(missing_ok=True)
    return count


def _encode(
    container: av.container.OutputContainer,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    crf: float,
    keyframe_interval: int,
    preset: str,
) -> int:
    stream = None
    shape: tuple[int, ...] = ()
    count = 0
    for count, frame in enumerate(frames, start=1):
        if stream is None:
            shape = frame.shape
            stream = _open_stream(container, frame, fps=fps)
            stream.options = {
                "crf": str(crf),
                "preset": preset,
                "x264-params": f"keyint={keyframe_interval}:threads=1:cpu-independent=1",
            }
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ConfigError(f"frame {count - 1} is {frame.shape} {frame.dtype}, the first one was {shape} uint8")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    if stream is None:
        raise ConfigError("there are no frames to write")
    container.mux(stream.encode(None))
    return count


def _open_stream(container: av.container.OutputContainer, frame: np.ndarray, *, fps: float) -> av.VideoStream:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise ConfigError(f"H.264 4:2:0 needs (H, W, 3) frames with even H and W, not {frame.shape}")
    try:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    except (ValueError, av.FFmpegError):
        raise ConfigError(
            "this PyAV build has no libx264 encoder", fix="Install the wheel: pip install --force-reinstall --only-binary av av"
        ) from None
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream
