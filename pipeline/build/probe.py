"""A few files done for real, with the processes and threads of a build: what they cost, and how much of them can be used.

Costs are processor seconds and not wall time wherever stages share the processor: those add up, however the stages overlap.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import polars as pl

from d2st.cache.errors import ManifestError, MediaError
from d2st.pipeline.build.crop import crop_frames
from d2st.pipeline.build.crops import Media
from d2st.pipeline.build.flow import Clock
from d2st.pipeline.build.rows import Row, frame_files
from d2st.pipeline.build.threads import take_threads
from d2st.pipeline.build.use import ProcessorTime
from d2st.pipeline.faces import given_detections
from d2st.pipeline.media import DecodePool, Frames, Job

__all__ = ["PROBE_S", "Probe", "probe_media"]

PROBE_S = 8.0
FILES_A_KIND = 32


@dataclass
class Probe:
    """What probing found.

    Attributes:
        tried, rejected: files by kind; rejected ones could not be used.
        frames: how many frames each file gave, by kind.
        decode_s: processor seconds a file, over all kinds; wall time of one child when the system does not tell.
        crop_s: seconds a file, by kind, of one thread: processor time on a CPU, wall time beside a GPU.
        start_s: wall time until the children can work.
    """

    tried: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rejected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    frames: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    decode_s: dict[str, float] = field(default_factory=dict)
    crop_s: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0


def probe_media(manifest: pl.DataFrame, media: Media) -> Probe:
    """Decode and crop files of every kind, evenly spread over the manifest, until there are 32 of each or 8 seconds have passed."""
    found = Probe()
    starting = ProcessorTime()
    begin = perf_counter()
    with starting.running(), DecodePool(1) as pool:
        pool.submit(Job("", str(media.root / "."), "image", 1, "even")).result()  # a folder: refused as soon as the child runs
    found.start_s = perf_counter() - begin
    for kind, rows in _picked(manifest).items():
        _probe_kind(found, kind, rows, media, starting, limit_s=PROBE_S / manifest["kind"].n_unique())
    return found


def _picked(manifest: pl.DataFrame) -> dict[str, Iterator[Row]]:
    rows = manifest.filter(pl.col("duplicate_of").is_null())
    groups = {}
    for (kind,), group in rows.group_by("kind"):
        groups[kind] = group.sort("sample_id").gather_every(max(1, group.height // FILES_A_KIND)).head(FILES_A_KIND)
    return {kind: group.iter_rows(named=True) for kind, group in sorted(groups.items())}


def _probe_kind(found: Probe, kind: str, rows: Iterator[Row], media: Media, starting: ProcessorTime, *, limit_s: float) -> None:
    decoding, cropping = ProcessorTime(), Clock()
    begin = perf_counter()
    window: deque = deque()
    with (
        decoding.running(),
        ThreadPoolExecutor(media.threads, "d2st-probe", lambda: take_threads(1, stream_on=media.device)) as threads,
        DecodePool(media.workers) as pool,
    ):

        def crop(row: Row, decoded) -> int:
            frames = decoded.result()
            return _crop(row, frames, media, cropping)

        def settle() -> None:
            count = window.popleft().result()
            found.tried[kind] += 1
            found.rejected[kind] += count == 0
            found.frames[kind].append(count)

        for row in rows:
            settings = media.settings
            job = Job(
                row["sample_id"], str(media.root / row["path"]), kind, settings.frames, settings.sampling, frame_files(row)
            )
            window.append(threads.submit(crop, row, pool.submit(job)))
            if len(window) >= media.workers + media.threads:
                settle()
            if perf_counter() - begin > limit_s:
                break
        while window:
            settle()
        running = min(media.workers, found.tried[kind])
    tried = max(1, found.tried[kind])
    found.decode_s[kind] = max(0.0, decoding.children_s - running * starting.children_s) / tried
    found.crop_s[kind] = (cropping.cpu_s if media.device == "cpu" else cropping.busy_s) / tried


def _crop(row: Row, frames: Frames | MediaError, media: Media, clock: Clock) -> int:
    """How many crops the frames give; 0 when they can't be used."""
    if isinstance(frames, MediaError):
        return 0
    try:
        with clock.running():
            given = given_detections(media.root / row["path"], frames.indices, box=row["box"], landmarks=row["landmarks"])
            return len(crop_frames(frames, media.detector, media.settings, given)[0])
    except (MediaError, ManifestError):
        return 0
