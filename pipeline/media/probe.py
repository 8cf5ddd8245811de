"""Look at a video with PyAV before any frame is read from it: what it claims, and whether decord may have it.

Every packet is walked (not decoded), which costs milliseconds and finds what decord 0.6 gets wrong in silence: edit lists,
gaps, open GOPs (the default of x265), key frames that are none, interlacing, and pictures that change size on the way.
The first frame is decoded for its true size and rotation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av

from d2st.pipeline.media.container import IMAGE_CONTAINERS, count_indexed, open_video, packets
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.picture import is_entry_point, size_signature
from d2st.pipeline.media.types import MAX_FRAMES, MAX_PIXELS

__all__ = ["Probe", "probe_video", "quarter_turns"]

# right frame by frame on thousands of random encodes with decord 0.6.0; PyAV reads the rest, FLV too, where decord misses by one
DECORD_CONTAINERS = frozenset({"mov", "matroska"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg", "prores"})


@dataclass(frozen=True)
class Probe:
    """`width` and `height` are upright; `packets` hold one frame each as far as can be known without decoding;
    `steady` says that nothing was seen on which decord is known to fail."""

    container: str
    codec: str
    pix_fmt: str
    fps: float | None
    duration_s: float
    rotation: int
    width: int
    height: int
    packets: int
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
        count, steady, first = (0, False, None) if name in IMAGE_CONTAINERS else _walk(path, container, stream)
        turns = quarter_turns(first) if first is not None else 0
        width, height = (first.width, first.height) if first is not None else (codec.width, codec.height)
        _check_size(path, count, width * height)
        return Probe(
            container=name,
            codec=codec.codec.canonical_name,
            pix_fmt=codec.pix_fmt or "",
            fps=float(stream.average_rate) if stream.average_rate else None,
            duration_s=duration_s,
            rotation=-90 * turns % 360,
            width=height if turns % 2 else width,
            height=width if turns % 2 else height,
            packets=count,
            steady=steady and first is not None and not first.interlaced_frame,
        )


def quarter_turns(frame: av.VideoFrame) -> int:
    """How many quarter turns, counter-clockwise (as `numpy.rot90` counts), put this frame upright."""
    return round(frame.rotation / 90) % 4


def _walk(path: str | Path, container, stream: av.VideoStream) -> tuple[int, bool, av.VideoFrame | None]:
    """Count the packets that are meant to be shown; judge their steadiness; decode up to the first frame."""
    codec = stream.codec_context.codec.canonical_name
    count = 0
    steady = True
    first = key_pts = None
    signatures: set[bytes] = set()
    for packet in packets(container, stream):
        if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata") or packet.pts is None:
            steady = False
        count += not packet.is_discard
        if count > MAX_FRAMES:
            raise media_error("too_large", path, f"more than {MAX_FRAMES} frames")
        if packet.is_keyframe:
            key_pts = packet.pts
            signatures.add(size_signature(codec, packet))
            steady = steady and is_entry_point(codec, packet)
        elif key_pts is not None and packet.pts is not None and packet.pts < key_pts:
            steady = False  # an open GOP: decord loses such frames when it starts at this key frame, and miscounts
        if first is None:
            first, steady = _first_frame(packet, steady=steady)
    if first is None:
        first, steady = _first_frame(stream, steady=steady)
    signatures.discard(b"")
    indexed = count_indexed(container, stream)
    return count, steady and len(signatures) <= 1 and (indexed == 0 or count == indexed), first


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
