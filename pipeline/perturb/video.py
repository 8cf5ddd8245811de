"""H.264: the frames of a sample as one clip through x264 and back, in memory.

x264 as `ffmpeg -crf` runs it (preset medium, B-frames and all), but in one thread and without choices that depend on the processor, so that
the same crops give the same pixels. Frames of a cache with even sampling lie about a second apart, so that prediction from neighbours helps
x264 less than in a film: a CRF then costs more bits, and hides about as much, since it holds the quality and not the rate.
"""

from fractions import Fraction

import av
import numpy as np

from d2st.cache.errors import ConfigError

__all__ = ["h264"]

FPS = 25  # x264 spends less on what is shown for a shorter time, so the rate is fixed, whatever the source had
_FIX = "Install the wheel: pip install --force-reinstall --only-binary av av"


def h264(crops: np.ndarray, crf: float) -> np.ndarray:
    """Encode (T,S,S,3) uint8 RGB as H.264 4:2:0 with x264's quality `crf` (0 best, 51 worst), and decode it again; any T >= 1, any S.

    An odd side is made even by repeating the last row and column, which are cut off again. Raises ConfigError for a PyAV without libx264.
    """
    side = crops.shape[1]
    odd = side % 2
    even = np.pad(crops, ((0, 0), (0, odd), (0, odd), (0, 0)), mode="edge")  # (T,S',S',3)
    encoder = _encoder(even.shape[1], crf)
    packets = []
    for number, crop in enumerate(even):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    if len(decoded) != len(crops):
        raise ConfigError(f"of {len(crops)} frames in H.264, PyAV decoded {len(decoded)}", fix=_FIX)
    return np.stack([frame.to_ndarray(format="rgb24")[:side, :side] for frame in decoded])


def _encoder(side: int, crf: float) -> av.VideoCodecContext:
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except (ValueError, av.FFmpegError):
        raise ConfigError("this PyAV build has no libx264 encoder", fix=_FIX) from None
    encoder.width = encoder.height = side
    encoder.pix_fmt = "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.thread_count = 1
    encoder.options = {"crf": str(crf), "preset": "medium", "x264-params": "threads=1:cpu-independent=1"}
    return encoder
