"""Read a video of any length in consecutive windows, each as soon as it is complete; a short file is read as `read_media` does.

One pass from the first frame on with PyAV, and of the frames that are passed over none is converted or kept: a two-hour file needs the
memory of one window. The windows are cut by time, since how many frames there will be is known only at the end; with a steady rate the
frames taken are those that `sample_indices` would take of each window.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av

from d2st.cache.errors import MediaError
from d2st.pipeline.media.container import count_indexed, open_video, packets
from d2st.pipeline.media.failure import lacks_end, media_error
from d2st.pipeline.media.probe import Probe, probe_video
from d2st.pipeline.media.read import MISSING_S, read_media, read_probed
from d2st.pipeline.media.sampling import sample_indices
from d2st.pipeline.media.stretch import Stretch
from d2st.pipeline.media.types import ASSUMED_FPS, MAX_FRAMES, MAX_PIXELS, Frames, MediaEnd, MediaWindow

__all__ = ["read_windows", "window_edges"]

WHOLE_RATIO = 2.0  # up to this many windows long, a video is one clip
MIN_LAST_RATIO = 0.5  # a shorter rest lengthens the last window


def read_windows(
    path: str | Path,
    kind: str,
    *,
    frames: int,
    sampling: str,
    window_s: float | None,
    files: Sequence[str] | None = None,
    on_duration: Callable[[float], None] | None = None,
) -> Iterator[MediaWindow | MediaEnd]:
    """Yield the windows of a file, `frames` frames each, and one `MediaEnd` behind them.

    Images, folders of frames (their clock is not known) and videos up to twice `window_s` long are one window, read exactly as by
    `read_media`; longer videos come in windows of `window_s` seconds, of which the last takes up a rest shorter than half a window.
    None: one window whatever the length. A window that lies within a damaged stretch holds a MediaError. What ends the reading too early
    stands in the `MediaEnd`; nothing is raised for any content of the file. The other arguments are those of `read_media`.
    """
    reached = _Reached()
    try:
        if kind != "video":
            found = read_media(path, kind, frames=frames, sampling=sampling, files=files)
            yield from _whole(found, None if kind == "image" else found.info.frame_count / ASSUMED_FPS)
            return
        probe = probe_video(path, on_duration=on_duration)
        if probe.is_image or window_s is None or probe.span_s <= WHOLE_RATIO * window_s:
            found = read_probed(path, probe, frames=frames, sampling=sampling)
            yield from _whole(found, None if probe.is_image else probe.span_s, _break_of(path, probe))
            return
        yield from _windows(path, probe, reached, frames=frames, sampling=sampling, window_s=window_s)
    except MediaError as error:
        yield reached.end(error)
    except MemoryError:
        yield reached.end(media_error("too_large", path, "not enough memory to decode it"))
    except Exception as error:  # decoders raise anything on damaged input, as in read_media
        yield reached.end(media_error("decode_failed", path, f"{type(error).__name__}: {error}"))


def window_edges(span_s: float, window_s: float) -> list[float]:
    """Where the windows of a video of `span_s` seconds begin, and the last one's end: one more number than windows, at least two."""
    whole = int(span_s / window_s)
    rest = span_s - whole * window_s
    count = whole if whole and rest < MIN_LAST_RATIO * window_s else whole + 1
    return [*(k * window_s for k in range(count)), span_s]


class _Reached:
    """How far a file could be read in windows."""

    def __init__(self) -> None:
        self.frames = 0
        self.end_s: float | None = None
        self.windowed = False

    def end(self, error: MediaError | None) -> MediaEnd:
        return MediaEnd(error, self.end_s, self.frames, self.windowed)


def _whole(found: Frames, duration_s: float | None, error: MediaError | None = None) -> Iterator[MediaWindow | MediaEnd]:
    yield MediaWindow(found, 0.0, duration_s or 0.0)
    yield MediaEnd(error, duration_s, found.info.frame_count, windowed=False)


def _windows(
    path: str | Path, probe: Probe, reached: _Reached, *, frames: int, sampling: str, window_s: float
) -> Iterator[MediaWindow | MediaEnd]:
    """The windows of a long video, decoded packet by packet; damaged ones are passed over."""
    sample_indices(0, frames, sampling)  # raises for another sampling
    stretch = Stretch(path, probe, window_edges(probe.span_s, window_s), window_s, frames=frames, sampling=sampling)
    period_s = 1 / (probe.fps or ASSUMED_FPS)
    failure: Exception | None = None
    first_s: float | None = None
    last_s = -period_s
    reached.windowed = True
    with open_video(path) as (container, stream):
        seen = 0
        for source in _sources(container, stream):
            seen += isinstance(source, av.Packet)
            try:
                decoded = source.decode()
            except MemoryError:
                raise
            except Exception as error:  # not only FFmpegError: damaged metadata raises UnicodeDecodeError, AttributeError, ...
                failure = error
                stretch.lost += 1
                continue
            for frame in decoded:
                if reached.frames >= MAX_FRAMES or frame.width * frame.height > MAX_PIXELS:
                    raise media_error("too_large", path, f"frame {reached.frames}: {frame.width} x {frame.height} pixels")
                at_s = last_s + period_s
                if frame.pts is not None:  # not frame.time: NaN for the last frames, which come without a packet
                    clock_s = float(frame.pts * stream.time_base)
                    first_s = clock_s if first_s is None else first_s
                    at_s = clock_s - first_s if clock_s - first_s > last_s else at_s
                yield from stretch.add(frame, reached.frames, at_s)
                reached.frames += 1
                last_s, reached.end_s = at_s, at_s + period_s
        cut_off = max(0, count_indexed(container, stream) - seen)
    yield from stretch.close(reached.end_s or 0.0)
    yield reached.end(_break(path, probe, reached, cut_off, failure))


def _sources(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | av.VideoStream]:
    """The packets, and then the stream itself: what the decoder still holds."""
    yield from packets(container, stream)
    yield stream


def _break(path: str | Path, probe: Probe, reached: _Reached, cut_off: int, failure: Exception | None) -> MediaError | None:
    """Why the reading ended before the file does, or None if it did not."""
    until_s = reached.end_s or 0.0
    if reached.end_s is None:
        return media_error("decode_failed", path, "" if failure is None else f"{type(failure).__name__}: {failure}")
    if probe.duration_s - until_s > MISSING_S and (cut_off or lacks_end(path)):
        return MediaError("truncated", f"{path}: the file is cut off after {until_s:.1f} of {probe.duration_s:.1f} s")
    if failure is not None and probe.span_s - until_s > MISSING_S:
        where = f"nothing can be read after {until_s:.1f} of {probe.span_s:.1f} s"
        return media_error("decode_failed", path, f"{where}: {type(failure).__name__}: {failure}")
    return None


def _break_of(path: str | Path, probe: Probe) -> MediaError | None:
    """The same of a video that was read as one clip."""
    whole = _Reached()
    whole.end_s = probe.span_s
    return _break(path, probe, whole, 0, None)
