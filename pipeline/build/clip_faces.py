"""From the windows of media files to clips of face crops: the stages before the encoder.

    read (child processes) -> hand windows on (a thread) -> find and cut faces (threads) -> number the faces (a thread)

Windows and files keep their order through all of them, and each stage holds a few windows at most.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2st.cache.errors import D2stError, MediaError
from d2st.pipeline.build.clips import ClipEvent, EncodedClip, FileEnd
from d2st.pipeline.build.crop import CropSettings, crop_every, crop_main
from d2st.pipeline.build.flow import Clock, Flow, Pipe, Stopped
from d2st.pipeline.faces import FaceCrops, FaceDetector, Follower, Track, given_detections
from d2st.pipeline.media import DecodePool, Frames, Job, MediaEnd, MediaWindow, Reading

__all__ = ["Cutting", "InFlight", "Source", "cut_windows", "number_faces", "read_source"]

Cut = list[tuple[Track | None, FaceCrops | None, dict[str, Any]]]


class InFlight:
    """How many files were begun, and how many have left the stages before the encoder."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    @property
    def idle(self) -> bool:
        """Whether nothing can come until another file is given."""
        return self.begun == self.ended


@dataclass(frozen=True, eq=False)
class Source:
    """A file that is being read."""

    file: int
    path: str
    reading: Reading


@dataclass(frozen=True, eq=False)
class Cutting:
    """A window whose faces are being cut; `times_s` are those of its sampled frames."""

    file: int
    start_s: float
    end_s: float
    times_s: tuple[float, ...]
    cut: "Future[Cut | D2stError]"


def read_source(
    flow: Flow,
    out: "Pipe[Source]",
    files: Iterable[tuple[str, str]],
    pool: DecodePool,
    settings: CropSettings,
    *,
    window_s: float | None,
    flight: InFlight,
) -> None:
    """Have files read as they are given, in a thread that the flow does not wait for: `files` may block for ever, as a terminal does."""
    try:
        for number, (path, kind) in enumerate(files):
            flow.check()
            flight.begun += 1
            job = Job(str(number), path, kind, settings.frames, settings.sampling, window_s=window_s)
            out.put(Source(number, path, pool.stream(job, flow.wake)))
        out.close()
    except Stopped:
        pass
    except BaseException as error:  # whatever `files` raises, its owner must see it
        flow.stop(error)


def cut_windows(
    flow: Flow,
    source: "Pipe[Source]",
    out: "Pipe[Cutting | ClipEvent | FileEnd]",
    threads: ThreadPoolExecutor,
    detector: FaceDetector,
    settings: CropSettings,
    *,
    count: int,
    all_faces: bool,
    clock: Clock,
) -> None:
    """Have the faces of each window found and cut, and pass on what could not be read, and where files end.

    No window is taken over before one of the `count` threads is free for it: twelve frames in 4K are 300 MB.
    """
    under_way: list[Future[Cut | D2stError]] = []

    def is_free() -> bool:
        under_way[:] = [future for future in under_way if not future.done()]
        return len(under_way) < count

    def cut(path: str, frames: Frames) -> Cut | D2stError:
        flow.check()
        with clock.running():
            try:
                given = given_detections(Path(path), frames.indices)
                if all_faces:
                    return list(crop_every(frames, detector, settings, given))
                crops, info = crop_main(frames, detector, settings, given)
                return [(None, crops, info)]
            except D2stError as error:
                return error

    def begin(item: Source, window: MediaWindow) -> Cutting | ClipEvent:
        frames = window.frames
        if not isinstance(frames, Frames):
            return ClipEvent(item.file, frames, window.start_s, window.end_s)
        future = threads.submit(cut, item.path, frames)
        under_way.append(future)
        future.add_done_callback(lambda _: flow.wake())
        return Cutting(item.file, window.start_s, window.end_s, frames.timestamps_s, future)

    for item in source:
        ready = item.reading.ready
        while True:
            flow.wait(ready)
            flow.wait(is_free)
            part = item.reading.take()
            if isinstance(part, MediaEnd):
                out.put(FileEnd(item.file, part.error, part.duration_s, part.frames, part.windowed))
                break
            out.put(begin(item, part))
            del part  # the frames are the cutting thread's alone
    out.close()


def number_faces(
    flow: Flow, source: "Pipe[Cutting | ClipEvent | FileEnd]", out: "Pipe[ClipEvent | FileEnd]", *, frames: int
) -> None:
    """Turn each window into the events of its faces, numbered through the file; `frames` is what a damaged window counts as."""
    follower = Follower()
    for item in source:
        if isinstance(item, FileEnd):
            follower = Follower()
            out.put(item)
            continue
        if isinstance(item, ClipEvent):
            follower.skip(frames)
            out.put(item)
            continue
        flow.wait(item.cut.done)
        for event in _events(item, item.cut.result(), follower):
            out.put(event, weight=len(event.clip.crops) if isinstance(event.clip, EncodedClip) else 1)
        del item
    out.close()


def _events(item: Cutting, cut: Cut | D2stError, follower: Follower) -> list[ClipEvent]:
    if isinstance(cut, D2stError):
        follower.skip(len(item.times_s))
        return [ClipEvent(item.file, cut, item.start_s, item.end_s)]
    tracks = [track for track, _, _ in cut if track is not None]
    numbers = follower.number(tracks, item.times_s, wanted=[crops is not None for _, crops, _ in cut]) if tracks else [1]
    clips = [
        EncodedClip(crops.images, None, info, crops.boxes, crops.matrices, tuple(info["timestamps_s"]), number)
        for (_, crops, info), number in zip(cut, numbers, strict=True)
        if crops is not None
    ]
    if not clips:
        best = max(len(track.positions) for track in tracks)
        seen = f"the longest of {len(tracks)} tracks covers {best} of {len(item.times_s)} sampled frames"
        lost = MediaError("face_lost", f"no face could be followed: {seen}")
        return [ClipEvent(item.file, lost, item.start_s, item.end_s)]
    return [ClipEvent(item.file, clip, item.start_s, item.end_s) for clip in clips]
