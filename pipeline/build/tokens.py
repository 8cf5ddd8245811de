"""The last stages of a build: token maps to the disk, and the commit.

Writing and committing are two stages: while one shard is brought onto the disk (fsync waits for all of it), the next is already being
written.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from d2st.cache.arrays import ensure_array
from d2st.cache.codec import Calibration, stored_arrays
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import Level, StagedShard
from d2st.cache.moments import Moments, counted_digest, moments_bytes, moments_name
from d2st.cache.shard import ShardWriter
from d2st.cache.statistics import add_to_moments
from d2st.pipeline.build.crops_writer import End
from d2st.pipeline.build.encode_chunks import Encoded
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.progress import Progress
from d2st.pipeline.build.stagings import Stagings
from d2st.pipeline.build.threads import take_threads
from d2st.pipeline.build.work import Task, Work
from d2st.pipeline.clip import Encoder

__all__ = ["TokensWriter", "ensure_token_arrays"]


@dataclass(frozen=True, eq=False)
class _Whole:
    """A shard whose files are written, ready to be committed."""

    task: Task
    staged: StagedShard
    rows: pl.DataFrame
    source: str


@dataclass(eq=False)
class _Open:
    """The shard that is being written."""

    staged: StagedShard
    writers: dict[str, ShardWriter] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    used: int = 0  # slots
    frames: int = 0


def ensure_token_arrays(level: Level, encoder: Encoder, *, shards: int) -> None:
    """Make the arrays of a tokens level, or let them grow to so many shards."""
    for layer in encoder.layers:
        for kind, (shape, name) in stored_arrays(encoder.dtype, encoder.backbone.grid, encoder.backbone.channels).items():
            attributes = {"d2st_dtype": encoder.dtype} if name == "uint16" else {}
            ensure_array(level.array(f"{layer}/{kind}"), frame_shape=shape, dtype=name, shards=shards, attributes=attributes)


def _append(writer: ShardWriter, values: np.ndarray, slots: np.ndarray, *, used: int) -> None:
    """Write frames (n, ...) to their slots, of which `used` are behind us already."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(slots)], strict=True):
        writer.skip(int(slots[begin]) - used)
        writer.append(values[begin:end])
        used = int(slots[end - 1]) + 1


class TokensWriter:
    """The writing stage and, with `commit`, the last one.

    Args:
        source: encoded chunks and ends, in order.
        counted: samples whose frames enter the channel statistics.
        clock, commit_clock: get the time spent on writing and on committing.
    """

    def __init__(
        self,
        flow: Flow,
        source: "Pipe[Encoded | End]",
        *,
        work: Work,
        stagings: Stagings,
        layers: tuple[str, ...],
        calibration: Calibration,
        counted: set[str],
        clock: Clock,
        commit_clock: Clock,
        progress: Progress,
    ) -> None:
        self._flow, self._source, self._whole = flow, source, Pipe[_Whole](flow, 1)
        self._work, self._stagings, self._level = work, stagings, work.tokens
        self._layers, self._calibration, self._counted = layers, calibration, counted
        self._clock, self._commit_clock, self._progress = clock, commit_clock, progress
        self._open: _Open | None = None
        self.built = self.frames = self.clamped = 0

    def run(self) -> None:
        """Write until the source ends."""
        # a layer a thread: the statistics of four layers cost 2 ms a frame on one core
        with ThreadPoolExecutor(min(4, len(self._layers)), "d2st-moments", lambda: take_threads(1)) as threads:
            for item in self._source:
                if isinstance(item, Encoded):
                    self._add(item, threads)
                elif item.part is None:
                    self._drop()
                else:
                    self._end(item)
                del item
        self._whole.close()

    def _add(self, chunk: Encoded, threads: ThreadPoolExecutor) -> None:
        with self._clock.running():
            now = self._open = self._open or _Open(self._stagings.open(self._level, chunk.task.shard))
            jobs = []
            if chunk.counted.any():
                kept = chunk.counted
                for layer in self._layers:
                    arrays = {
                        name.removeprefix(f"{layer}/"): values if kept.all() else values[kept]
                        for name, values in chunk.arrays.items()
                        if name.startswith(f"{layer}/")
                    }
                    jobs.append(threads.submit(add_to_moments, now.moments, layer, arrays, self._calibration))
            for name, values in chunk.arrays.items():
                if name not in now.writers:
                    now.writers[name] = now.staged.writer(name, frame_dims=values.ndim - 1)
                _append(now.writers[name], values, chunk.slots, used=now.used)
            now.used = int(chunk.slots[-1]) + 1
            for job in jobs:
                job.result()
        now.frames += len(chunk.counted)
        self.clamped += chunk.clamped
        self.frames += len(chunk.counted)
        self._progress.encoded(len(chunk.counted))

    def _drop(self) -> None:
        if self._open is not None:
            self._stagings.close(self._open.staged)
            self.frames -= self._open.frames
            self._progress.encoded(-self._open.frames)
            self._open = None

    def _end(self, end: End) -> None:
        now = self._open or _Open(self._stagings.open(self._level, end.task.shard))
        self._open = None
        rows = end.part.rows.filter(pl.col("reason").is_null()).sort("start").select(LEDGER_SCHEMA.names())
        seen = [sample for sample in rows["sample_id"] if sample in self._counted]
        now.staged.write(
            moments_name(end.task.shard), moments_bytes(dict(sorted(now.moments.items())), counted=counted_digest(seen))
        )
        self._whole.put(_Whole(end.task, now.staged, rows, end.part.content))

    def commit(self) -> None:
        """Commit what is whole, until nothing more comes."""
        for whole in self._whole:
            with self._commit_clock.running():
                self.built += whole.staged.commit(whole.rows, source=whole.source)
                self._stagings.close(whole.staged)
            self._work.finish(whole.task.shard)
            self._flow.wake()
            del whole
