"""The MP4 that a changed copy of a video is written to: its encoder, its clock, and the sound that is copied beside it.

One decision: times are the source's own, tick by tick, for pictures and sound alike, so that what was in step stays so at any frame rate.
Only damaged clocks are mended: a picture without a time, or not later than the one before, follows it by the usual step.
"""

import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from d2st.cache.errors import ConfigError
from d2st.pipeline.media.container import packets
from d2st.pipeline.media.pyav_reader import ASSUMED_FPS

__all__ = ["CopiedSound", "FrameTimes", "SoundRefused", "make_frame", "open_encoder", "output_tick", "start_of"]

ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
MAX_TICKS = 65_535  # a second, in MPEG-4 part 2; finer clocks are rounded to these
MAX_FPS = 240
MAX_THREADS = 4  # each holds pictures, and of 4K ones many threads would hold gigabytes
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
ITU709 = 1  # colour matrix, primaries and transfer in ISO/IEC 23091-2


class SoundRefused(Exception):
    """MP4 does not take the source's sound as it is."""


def start_of(container: av.container.InputContainer) -> Fraction:
    """Seconds that the source's clock shows where it begins; some broadcasts begin at hours. Never below 0."""
    return max(Fraction(0), Fraction(container.start_time or 0, av.time_base))


def output_tick(stream: av.VideoStream) -> Fraction:
    """Seconds a tick of the written clock: the source's."""
    return stream.time_base if stream.time_base.denominator <= MAX_TICKS else Fraction(1, MAX_TICKS)


def open_encoder(
    target: av.container.OutputContainer, stream: av.VideoStream, *, height: int, width: int, turned: bool
) -> av.VideoStream:
    """Add an H.264 stream for pictures of an even size, or MPEG-4 part 2 where PyAV has no libx264.

    `turned`: pictures were turned by a quarter, and with them the shape of the source's pixels. Raises ConfigError without either encoder.
    """
    rate = min(stream.average_rate or Fraction(ASSUMED_FPS), Fraction(MAX_FPS)).limit_denominator(1001)
    for name, options in ENCODERS.items():
        try:
            video = target.add_stream(name, rate=max(rate, Fraction(1)), options=options)
        except (ValueError, av.FFmpegError):
            continue
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        video.thread_count = min(MAX_THREADS, os.cpu_count() or 1)
        context = video.codec_context
        context.time_base = output_tick(stream)
        context.colorspace = context.color_primaries = context.color_trc = ITU709
        ratio = stream.codec_context.sample_aspect_ratio
        if ratio:
            context.sample_aspect_ratio = 1 / ratio if turned else ratio
        return video
    raise ConfigError(
        f"this PyAV build has none of the encoders {', '.join(ENCODERS)}",
        fix="Install the wheel: pip install --force-reinstall --only-binary av av",
    )


def make_frame(picture: np.ndarray, ticks: int, tick: Fraction) -> av.VideoFrame:
    """(H, W, 3) uint8 RGB of even size as a frame to encode, in ITU-R BT.709's colours."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.colorspace = ITU709
    frame.pts, frame.time_base = ticks, tick
    return frame


class FrameTimes:
    """The times of a stream's frames in ticks of the written file, strictly increasing, from `start` (seconds of the source's clock) on."""

    def __init__(self, stream: av.VideoStream, start: Fraction) -> None:
        self.tick = output_tick(stream)
        self._base, self._start = stream.time_base, start
        self._step = max(1, round(1 / (stream.average_rate or Fraction(ASSUMED_FPS)) / self.tick))
        self._first: int | None = None
        self._last = 0

    def place(self, pts: int | None) -> int:
        """Ticks of the next frame, whose time stamp in the source is `pts`."""
        if pts is not None:
            ticks = round((pts * self._base - self._start) / self.tick)
        if self._first is None:
            self._first = self._last = 0 if pts is None else ticks
        else:
            self._last = ticks if pts is not None and ticks > self._last else self._last + self._step
        return self._last

    @property
    def since_first_s(self) -> float:
        """Seconds from the first frame to the one placed last."""
        return float((self._last - (self._first or 0)) * self.tick)


class CopiedSound:
    """A sound stream that is copied packet by packet, as far as the pictures have come. Raises SoundRefused if MP4 can't hold it.

    `container` is open for the sound alone; `target` has all its other streams already, and its header is written here.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.AudioStream,
        target: av.container.OutputContainer,
        start: Fraction,
    ) -> None:
        try:
            self._out = target.add_stream_from_template(stream)
            channels = stream.layout.nb_channels
            if stream.layout.name == f"{channels} channels":  # Matroska and AVI do not say which of PCM, and MP4 has to
                self._out.codec_context.layout = USUAL_LAYOUTS.get(channels, stream.layout)
            target.start_encoding()
        except (ValueError, av.FFmpegError) as error:
            raise SoundRefused(str(error)) from error
        self._target, self._base = target, stream.time_base
        self._shift = round(start / stream.time_base)
        self._packets: Iterator[av.Packet] = packets(container, stream)
        self._next = next(self._packets, None)
        self._last_dts: int | None = None

    def copy_until(self, time_s: Fraction | None) -> None:
        """Copy what begins before `time_s` of the written file; all that is left for None."""
        while self._next is not None:
            packet = self._next
            if self._is_timed(packet):
                if time_s is not None and (packet.dts - self._shift) * self._base > time_s:
                    return
                self._last_dts = packet.dts
                packet.dts, packet.pts = packet.dts - self._shift, packet.pts - self._shift
                packet.stream = self._out
                self._target.mux(packet)
            self._next = next(self._packets, None)

    def _is_timed(self, packet: av.Packet) -> bool:
        """Damage can leave packets without a time, or out of order, and MP4 takes neither."""
        if packet.dts is None or packet.pts is None or packet.pts < packet.dts:
            return False
        return self._last_dts is None or packet.dts > self._last_dts
