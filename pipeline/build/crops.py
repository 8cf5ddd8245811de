"""The first stages of a build: media to face crops, in the order of the plan.

Child processes decode ahead, threads find and cut faces; both answer in order, so what comes out depends on no timing. The window of
files under way is bounded by their number and by the bytes that are decoded and not cropped yet.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import ManifestError, MediaError
from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.rows import Row, Rows, frame_files
from d2st.pipeline.build.threads import take_threads
from d2st.pipeline.build.work import SHARDS_AT_ONCE, Task, Work, pause
from d2st.pipeline.faces import FaceDetector, given_detections
from d2st.pipeline.media import DecodePool, Frames, Job

__all__ = ["LEFT", "Media", "Sample", "crop_media"]

LEFT = "no longer in the manifest"
MAX_HELD_BYTES = 1 << 30  # decoded frames that wait to be cropped


@dataclass(frozen=True)
class Media:
    """How media become crops.

    Attributes:
        root: the folder that the manifest's paths are relative to.
        workers: decoding processes.
        threads: cropping threads.
        device: where the detector computes.
    """

    root: Path
    detector: FaceDetector
    settings: CropSettings
    workers: int
    threads: int
    device: str


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a shard: its crops (T',S,S,3) uint8, T' = 0 when it is rejected, and its ledger row but for `start`."""

    task: Task
    images: np.ndarray
    entry: dict[str, Any]


class _Place:
    """A sample under way."""

    def __init__(self, task: Task, row: Row) -> None:
        self.task, self.row = task, row
        self.decoded: Future[Frames | MediaError] | None = None
        self.cropped: Future[tuple[np.ndarray, dict[str, Any]]] | None = None

    @property
    def held_bytes(self) -> int:
        decoded = self.decoded
        if decoded is None or not decoded.done() or decoded.cancelled() or decoded.exception() is not None:
            return 0
        frames = decoded.result()
        return sum(image.nbytes for image in frames.images) if isinstance(frames, Frames) else 0


def crop_media(
    flow: Flow,
    out: "Pipe[Sample | Task]",
    work: Work,
    rows: Rows,
    media: Media,
    *,
    wait: bool,
    decoding: Clock,
    cropping: Clock,
) -> None:
    """Put each sample of each shard that `work` hands out into `out`, then the shard's task; of shards that have crops, the task alone.

    Args:
        wait: go on until others have finished the shards that they hold.
        decoding, cropping: get the time that children and threads are at work.
    """
    at_once = 2 * media.workers + media.threads
    shards_at_once = SHARDS_AT_ONCE + -(-at_once * media.settings.frames // SHARD_FRAMES)
    window: deque[_Place | Task] = deque()
    coming: Iterator[_Place | Task] = iter(())
    with (
        ThreadPoolExecutor(media.threads, "d2st-crop", lambda: take_threads(1, stream_on=media.device)) as threads,
        DecodePool(media.workers) as pool,  # closes first: threads may be waiting for it
    ):

        def places(task: Task) -> Iterator[_Place | Task]:
            for row in rows.of(task.shard) if task.needs_crops else ():
                place = _Place(task, row)
                if _skip(row) is None:
                    place.decoded = pool.submit(_job(row, media))
                place.cropped = threads.submit(_crop, flow, place, media, cropping)
                place.cropped.add_done_callback(lambda _: flow.wake())
                yield place
            yield task

        while True:
            flow.check()
            if len(window) < at_once and sum(item.held_bytes for item in window if isinstance(item, _Place)) < MAX_HELD_BYTES:
                if (place := next(coming, None)) is not None:
                    window.append(place)
                    continue
                if len(work.begun) < shards_at_once and (task := work.take()) is not None:
                    coming = places(task)
                    continue
            if window:
                _deliver(flow, window.popleft(), out)
            elif not pause(flow, work, shards_at_once, wait=wait):
                break
            decoding.busy_s = pool.busy_s
    decoding.busy_s = pool.busy_s
    out.close()


def _deliver(flow: Flow, item: _Place | Task, out: "Pipe[Sample | Task]") -> None:
    if isinstance(item, Task):
        out.put(item)
        return
    cropped = item.cropped
    flow.wait(cropped.done)
    images, entry = cropped.result()
    out.put(Sample(item.task, images, entry), weight=max(1, len(images)))


def _job(row: Row, media: Media) -> Job:
    settings = media.settings
    return Job(
        row["sample_id"], str(media.root / row["path"]), row["kind"], settings.frames, settings.sampling, frame_files(row)
    )


def _skip(row: Row) -> tuple[str, str] | None:
    """Reason and detail for rows that need no decoding."""
    if row["path"] is None:  # planned by an earlier build, and gone from the manifest before its shard was built
        return "missing", LEFT
    if row["duplicate_of"] is not None:
        return "duplicate", f"the same bytes as sample {row['duplicate_of']}"
    if row["slots"] == 0:  # it was a copy when this place was planned
        return "duplicate", "a copy of another file when this place was planned"
    return None


def _crop(flow: Flow, place: _Place, media: Media, clock: Clock) -> tuple[np.ndarray, dict[str, Any]]:
    """The crops (T',S,S,3) of one sample, T' = 0 when it is rejected, and its ledger row."""
    row, root = place.row, media.root
    entry = {"sample_id": row["sample_id"], "planned": row["slots"], "reason": None, "detail": "", "info": "{}"}
    rejected = _skip(row)
    try:
        if rejected is None:
            frames = place.decoded.result()
            flow.check()  # what comes from a pool that is being closed says nothing about the file
            if isinstance(frames, MediaError):
                raise frames
            with clock.running():
                path = root / row["path"]
                given = given_detections(path, frames.indices, box=row["box"], landmarks=row["landmarks"])
                images, info = crop_frames(frames, media.detector, media.settings, given)
            text = json.dumps(info, sort_keys=True, separators=(",", ":"), allow_nan=False)
            return images, {**entry, "frames": len(images), "info": text}
    except (MediaError, ManifestError) as error:
        reason = error.reason if isinstance(error, MediaError) else "bad_faces"
        # stores move: only the path below the media root is kept
        rejected = reason, str(error).replace(str(root / row["path"]), row["path"]).replace(f"{root}/", "")
    finally:
        place.decoded = None  # the frames are not needed any more
    reason, detail = rejected
    size = media.settings.size
    return np.empty((0, size, size, 3), np.uint8), {**entry, "frames": 0, "reason": reason, "detail": detail[:500]}
