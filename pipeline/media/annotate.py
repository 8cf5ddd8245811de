"""Draw what a detector said onto the video itself: a second pass that writes an .mp4 beside the scores.

The frames keep their own times, whatever these are (variable rates too), and the sound is copied, so the result plays as the source does.
Frames pass through one at a time. Boxes lie between the sampled frames on a straight line, and none is drawn where the face was not seen.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np

from d2st.cache.errors import ConfigError, D2stError
from d2st.pipeline.media.container import open_video, packets
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.mp4 import CopiedSound, FrameTimes, SoundRefused, make_frame, open_encoder, start_of
from d2st.pipeline.media.overlay import Strip, TrackDrawing, draw_box, verdict
from d2st.pipeline.media.probe import quarter_turns

__all__ = ["Annotated", "TrackDrawing", "annotate_video"]

GAP_STEPS = 2.5  # where a face's sampled frames lie further apart than so many usual steps, it was not seen between them


@dataclass(frozen=True)
class Annotated:
    """What was written. frames: their number. sound: "copied", "none", or "left out" (of a codec that MP4 does not take)."""

    frames: int
    sound: str


def annotate_video(
    path: str | Path, out: str | Path, faces: Sequence[TrackDrawing], *, threshold: float, duration_s: float | None = None
) -> Annotated:
    """Copy a video to `out` (.mp4, H.264 4:2:0; MPEG-4 part 2 where PyAV has no libx264) with boxes, labels and a timeline.

    Args:
        path: any video that `read_media` reads. It is turned upright, and an odd width gains one px.
        out: appears when it is complete; an older file of that name is replaced.
        faces: the most suspicious first; none at all gives the timeline of a video without faces.
        threshold: P(fake) above it is fake.
        duration_s: the video's length, where it is known better than its container knows it.

    Raises:
        MediaError: the video can't be opened, or no frame of it decodes.
        ConfigError: `out` is the video itself or can't be written, or this PyAV has no encoder.
    """
    path, out = Path(path), Path(out)
    if path.exists() and out.exists() and path.samefile(out):
        raise ConfigError(f"{out} is the video itself", fix="Name another file for the annotated one")
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        try:
            done = _write(path, partial, faces, threshold=threshold, duration_s=duration_s, with_sound=True)
        except (SoundRefused, av.error.ArgumentError):  # some sounds MP4 refuses only when its index is written
            done = _write(path, partial, faces, threshold=threshold, duration_s=duration_s, with_sound=False)
        os.replace(partial, out)
    except D2stError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise ConfigError(f"{out} can't be written ({error})", fix="Name a folder that is there and has room") from error
    finally:
        partial.unlink(missing_ok=True)
    return done


def _write(
    path: Path, partial: Path, faces: Sequence[TrackDrawing], *, threshold: float, duration_s: float | None, with_sound: bool
) -> Annotated:
    with ExitStack() as stack:
        source, stream = stack.enter_context(open_video(path))
        # opened twice: pictures and sound are read at their own pace, and damage to one does not end the other
        sounds, _ = stack.enter_context(open_video(path))
        sound = sounds.streams.best("audio")
        target = stack.enter_context(av.open(str(partial), "w", format="mp4"))
        start, step_s = start_of(source), _usual_step_s(faces)
        end_s = max([duration_s or (source.duration or 0) / av.time_base, *(window[1] for f in faces for window in f.windows)])
        times = FrameTimes(stream, start)
        video = strip = copied = None
        shape = (0, 0)
        count = 0
        for picture, frame in _pictures(source, stream):
            ticks = times.place(frame.pts)
            _draw_faces(picture, faces, times.since_first_s, step_s, threshold)
            if video is None:
                shape = picture.shape[0], picture.shape[1] + picture.shape[1] % 2
                strip = Strip(shape[1], shape[0], faces, threshold=threshold, duration_s=end_s)
                size = {"height": shape[0] + strip.height, "width": shape[1]}
                video = open_encoder(target, stream, **size, turned=quarter_turns(frame) % 2 == 1)
                if sound is not None and with_sound:
                    copied = CopiedSound(sounds, sound, target, start)
            whole = np.concatenate([_fit(picture, shape), strip.at(times.since_first_s)])  # (H + strip, W, 3)
            target.mux(video.encode(make_frame(whole, ticks, times.tick)))
            if copied is not None:
                copied.copy_until(ticks * times.tick)
            count += 1
        if video is None:
            raise media_error("truncated", path)
        target.mux(video.encode(None))
        if copied is not None:
            copied.copy_until(None)
    return Annotated(count, "none" if sound is None else "copied" if with_sound else "left out")


def _pictures(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[tuple[np.ndarray, av.VideoFrame]]:
    """The frames that decode, upright, (H, W, 3) uint8 RGB that may be drawn into, with the frames that they came from."""

    def decode(source: av.Packet | av.VideoStream) -> Iterator[tuple[np.ndarray, av.VideoFrame]]:
        try:
            for frame in source.decode():
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns(frame))), frame
        except MemoryError:
            raise
        except Exception:  # damage, as the readers pass over it: the scores have said so
            return

    for packet in packets(container, stream):
        yield from decode(packet)
    yield from decode(stream)  # what the decoder still holds


def _fit(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The picture at (H, W): an odd width's last column twice; scaled where a stream changes its size on the way."""
    if picture.shape[:2] == shape:
        return picture
    if picture.shape[0] == shape[0] and picture.shape[1] + 1 == shape[1]:
        return np.concatenate([picture, picture[:, -1:]], axis=1)
    return cv2.resize(picture, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)


def _draw_faces(picture: np.ndarray, faces: Sequence[TrackDrawing], time_s: float, step_s: float, threshold: float) -> None:
    for face in reversed(faces):  # the most suspicious one on top
        box = box_at(face, time_s, step_s)
        if box is not None:
            words, colour = verdict(face.at(time_s), threshold)
            name = f"#{face.number} " if len(faces) > 1 else ""
            draw_box(picture, box, name + words, colour, thick=words.startswith("FAKE"))


def box_at(face: TrackDrawing, time_s: float, step_s: float) -> np.ndarray | None:
    """Where a face is: (4,) px between the sampled boxes, held for half a step at the ends of what was seen; None elsewhere."""
    times_s = face.timestamps_s
    after = bisect_right(times_s, time_s)
    if 0 < after < len(times_s) and times_s[after] - times_s[after - 1] <= GAP_STEPS * step_s:
        share = (time_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
        before, behind = (np.asarray(face.boxes[k], np.float64) for k in (after - 1, after))
        return (1 - share) * before + share * behind
    near = min((k for k in (after - 1, after) if 0 <= k < len(times_s)), key=lambda k: abs(times_s[k] - time_s), default=None)
    return None if near is None or abs(times_s[near] - time_s) > step_s / 2 else np.asarray(face.boxes[near], np.float64)


def _usual_step_s(faces: Sequence[TrackDrawing]) -> float:
    """Seconds between two sampled frames; of videos with one sampled frame a window, the longest window."""
    steps = [b - a for face in faces for a, b in pairwise(face.timestamps_s) if b > a]
    return median(steps) if steps else max((w[1] - w[0] for face in faces for w in face.windows), default=0.0)
