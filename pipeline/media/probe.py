"""Look at a video with PyAV before any frame is read from it: what it claims, and whether decord may have it.

Every packet is walked (not decoded), which costs milliseconds and finds what decord 0.6 gets wrong in silence: edit lists,
gaps, open GOPs (the default of x265), key frames that are none, interlacing, and pictures that change size on the way.
The first frame is decoded for its true size and rotation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from d2st.pipeline.media.container import IMAGE_CONTAINERS, count_indexed, open_video, packets
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.picture import is_entry_point, size_signature
from d2st.pipeline.media.types import ASSUMED_FPS, MAX_FRAMES, MAX_PIXELS

__all__ = ["Probe", "probe_video", "quarter_turns"]

# right frame by frame on thousands of random encodes with decord 0.6.0; PyAV reads the rest, FLV too, where decord misses by one
DECORD_CONTAINERS = frozenset({"mov", "matroska"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg", "prores"})


@dataclass(frozen=True)
class Probe:
    """`width` and `height` are upright; `packets` hold one frame each as far as can be known without decoding; `span_s` is how long
    those last, where `duration_s` is what the header claims (sound and missing packets too), and `claimed` how many frames it claims
    (0 where it says nothing of them); `steady` says that nothing was seen on which
    decord is known to fail."""

    container: str
    codec: str
    pix_fmt: str
    fps: float | None
    duration_s: float
    rotation: int
    width: int
    height: int
    packets: int
    claimed: int
    span_s: float
    steady: bool

    @property
    def is_image(self) -> bool:
        return self.container in IMAGE_CONTAINERS

    @property
    def for_decord(self) -> bool:
        return self.steady and self.container.split(",")[0] in DECORD_CONTAINERS and self.codec in DECORD_CODECS


def probe_video(path: str | Path, *, on_duration: Callable[[float], None] | None = None) -> Probe:
    """Read the header and walk the packets; `on_duration` is called with the seconds claimed as soon as they are known.

    Raises MediaError: what `open_video` raises, and "too_large" for more than MAX_FRAMES frames or MAX_PIXELS pixels a frame.
    """
    with open_video(path) as (container, stream):
        codec = stream.codec_context
        _check_size(path, max(stream.frames, count_indexed(container, stream)), codec.width * codec.height)
        duration_s = (container.duration or 0) / av.time_base
        if on_duration is not None:
            on_duration(duration_s)
        name = container.format.name
        found = _Walk() if name in IMAGE_CONTAINERS else _walk(path, container, stream)
        first, fps = found.first, float(stream.average_rate) if stream.average_rate else None
        turns = quarter_turns(first) if first is not None else 0
        width, height = (first.width, first.height) if first is not None else (codec.width, codec.height)
        _check_size(path, found.count, width * height)
        return Probe(
            container=name,
            codec=codec.codec.canonical_name,
            pix_fmt=codec.pix_fmt or "",
            fps=fps,
            duration_s=duration_s,
            rotation=-90 * turns % 360,
            width=height if turns % 2 else width,
            height=width if turns % 2 else height,
            packets=found.count,
            claimed=stream.frames,
            span_s=found.span_s(stream.time_base, fps),
            steady=found.steady and first is not None and not first.interlaced_frame,
        )


def quarter_turns(frame: av.VideoFrame) -> int:
    """How many quarter turns, counter-clockwise (as `numpy.rot90` counts), put this frame upright."""
    return round(frame.rotation / 90) % 4


@dataclass
class _Walk:
    """What the packets that are meant to be shown tell: how many, whether decord can be trusted with them, the first frame, and the times
    of the earliest and the latest (in the stream's time base; None without times)."""

    count: int = 0
    steady: bool = True
    first: av.VideoFrame | None = None
    earliest: int | None = None
    latest: int | None = None

    def span_s(self, time_base: Fraction | None, fps: float | None) -> float:
        period_s = 1 / (fps or ASSUMED_FPS)
        if self.earliest is None or self.latest is None or time_base is None or self.latest <= self.earliest:
            return self.count * period_s
        return float((self.latest - self.earliest) * time_base) + period_s

    def shown(self, packet: av.Packet) -> None:
        """Count a packet in."""
        self.count += 1
        if packet.pts is not None:
            self.earliest = packet.pts if self.earliest is None else min(self.earliest, packet.pts)
            self.latest = packet.pts if self.latest is None else max(self.latest, packet.pts)


def _walk(path: str | Path, container, stream: av.VideoStream) -> _Walk:
    """Count the packets that are meant to be shown; judge their steadiness; decode up to the first frame."""
    codec = stream.codec_context.codec.canonical_name
    found = _Walk()
    key_pts = None
    signatures: set[bytes] = set()
    for packet in packets(container, stream):
        if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata") or packet.pts is None:
            found.steady = False
        if not packet.is_discard:
            found.shown(packet)
        if found.count > MAX_FRAMES:
            raise media_error("too_large", path, f"more than {MAX_FRAMES} frames")
        if packet.is_keyframe:
            key_pts = packet.pts
            signatures.add(size_signature(codec, packet))
            found.steady = found.steady and is_entry_point(codec, packet)
        elif key_pts is not None and packet.pts is not None and packet.pts < key_pts:
            found.steady = False  # an open GOP: decord loses such frames when it starts at this key frame, and miscounts
        if found.first is None:
            found.first, found.steady = _first_frame(packet, steady=found.steady)
    if found.first is None:
        found.first, found.steady = _first_frame(stream, steady=found.steady)
    signatures.discard(b"")
    indexed = count_indexed(container, stream)
    found.steady = found.steady and len(signatures) <= 1 and (indexed == 0 or found.count == indexed)
    return found


def _first_frame(source: av.Packet | av.VideoStream, *, steady: bool) -> tuple[av.VideoFrame | None, bool]:
    try:
        frames = source.decode()
    except MemoryError:
        raise
    except Exception:  # a damaged packet: the sequential reader deals with it
        return None, False
    return (frames[0] if frames else None), steady


def _check_size(path: str | Path, frames: int, pixels: int) -> None:
    if frames > MAX_FRAMES:
        raise media_error("too_large", path, f"{frames} frames")
    if pixels > MAX_PIXELS:
        raise media_error("too_large", path, f"{pixels} pixels a frame")
