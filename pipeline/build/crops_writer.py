"""Behind the cropping: crops go into their shard as they come, and on to the encoder in steps, so that no stage ever holds a whole shard.

A shard that has its crops already is read back from the store instead. So is one that another builder committed first: what was encoded
of our own crops is dropped, since token maps must belong to the very crops that the store keeps.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.ledger import LEDGER_SCHEMA, Part
from d2st.cache.level import StagedShard
from d2st.cache.reader import ArrayReader
from d2st.cache.shard import ShardWriter
from d2st.cache.staging import roll_forward
from d2st.pipeline.build.crops import Sample
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.progress import Progress
from d2st.pipeline.build.stagings import Stagings
from d2st.pipeline.build.views import view_of
from d2st.pipeline.build.work import Task, Work, has_part

__all__ = ["Chunk", "CropsWriter", "End"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Crops (n,S,S,3) of a shard on their way to the encoder.

    slots: where in the shard they lie (n,), increasing. counted: which of them enter the channel statistics (n,) bool.
    """

    task: Task
    images: np.ndarray
    slots: np.ndarray
    counted: np.ndarray


@dataclass(frozen=True)
class End:
    """All chunks of a shard have come: they belong to `part` of the crops, or are to be dropped when that is None."""

    task: Task
    part: Part | None


@dataclass(eq=False)
class _Open:
    """The shard that is being written."""

    task: Task
    staged: StagedShard | None = None
    writer: ShardWriter | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0


class CropsWriter:
    """The stage between cropping and encoding.

    Args:
        source: samples and tasks, in order.
        out: takes chunks and ends; None when crops alone are wanted.
        counted: samples whose frames enter the channel statistics.
        step: frames in a chunk.
        clock: gets the time spent on writing and reading.
    """

    def __init__(
        self,
        flow: Flow,
        source: "Pipe[Sample | Task]",
        out: "Pipe[Chunk | End] | None",
        *,
        work: Work,
        stagings: Stagings,
        counted: Set[str],
        step: int,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._flow, self._source, self._out = flow, source, out
        self._work, self._stagings, self._counted = work, stagings, counted
        self._step, self._clock, self._progress = step, clock, progress
        self._view = view_of(work.tokens.config) if work.tokens is not None else None  # such sets are made from committed crops
        self._open: _Open | None = None
        self._fed: list[tuple[np.ndarray, bool]] = []
        self._sent = 0  # frames of the open shard that have gone to the encoder
        self.built = self.frames = 0

    def run(self) -> None:
        """Work until the source ends."""
        for item in self._source:
            if isinstance(item, Sample):
                self._add(item)
            else:
                self._end(item)
            del item
        if self._out is not None:
            self._out.close()

    def _add(self, sample: Sample) -> None:
        now = self._open = self._open or _Open(sample.task)
        count = len(sample.images)
        start = sample.task.shard * SHARD_FRAMES + now.frames if count else None
        now.entries.append({**sample.entry, "start": start})
        now.frames += count
        self.frames += count
        if count:
            with self._clock.running():
                if now.writer is None:
                    now.staged = self._stagings.open(self._work.crops, now.task.shard)
                    now.writer = now.staged.writer("frames", frame_dims=3)
                now.writer.append(sample.images)
            if sample.task.needs_tokens:
                self._feed(sample.task, sample.images, counted=sample.entry["sample_id"] in self._counted)
        self._progress.cropped()

    def _feed(self, task: Task, images: np.ndarray, *, counted: bool) -> None:
        self._fed += [(image, counted) for image in images]
        while len(self._fed) >= self._step:
            self._send(task)

    def _send(self, task: Task) -> None:
        part, self._fed = self._fed[: self._step], self._fed[self._step :]
        if part:
            slots = np.arange(self._sent, self._sent + len(part))
            self._sent += len(part)
            counted = np.array([counted for _, counted in part])
            self._out.put(Chunk(task, np.stack([image for image, _ in part]), slots, counted))

    def _end(self, task: Task) -> None:
        tokens, read_back = self._work.tokens, task.needs_tokens
        if task.needs_crops:
            self._flow.check()
            won = self._commit(task)
            part = self._work.crops.part(task.shard)
            if task.needs_tokens:
                self._progress.known(task.shard, frames=self._sent + len(self._fed))
                self._send(task)
                self._sent = 0
                self._out.put(End(task, part if won else None))
                read_back = not won
            elif tokens is not None and has_part(tokens, task.shard) and tokens.part(task.shard).source != part.content:
                tokens.withdraw(task.shard)
                read_back = True
        if read_back:
            self._read_back(task)
        elif not task.needs_tokens:
            self._work.finish(task.shard)
            self._flow.wake()

    def _commit(self, task: Task) -> bool:
        now = self._open or _Open(task)
        self._open = None
        with self._clock.running():
            staged = now.staged or self._stagings.open(self._work.crops, task.shard)
            rows = pl.DataFrame(now.entries, schema=LEDGER_SCHEMA)
            won = staged.commit(rows)
            self._stagings.close(staged)
        self.built += won
        return won

    def _read_back(self, task: Task) -> None:
        """Send a committed shard's crops to the encoder."""
        crops = self._work.crops
        with self._clock.running():
            roll_forward(crops.path)  # its builder may have died between its commit and the last rename
            part = crops.part(task.shard)
        cached = part.rows.filter(pl.col("reason").is_null()).sort("start")
        samples = np.repeat(cached["sample_id"].to_numpy(), cached["frames"].to_numpy())  # (n,) of each frame
        counted = np.array([sample in self._counted for sample in samples], bool)
        self._progress.known(task.shard, frames=len(counted))
        if len(counted):
            spans = [np.arange(start, start + frames) for start, frames in cached.select("start", "frames").iter_rows()]
            rows = np.concatenate(spans)  # with holes where gc has removed samples
            with ArrayReader(crops.array("frames")) as reader:
                for begin in range(0, len(rows), self._step):
                    part_rows = rows[begin : begin + self._step]
                    with self._clock.running():
                        images = np.empty((len(part_rows), *reader.frame_shape), np.uint8)
                        reader.read(part_rows, images)
                        if self._view is not None:
                            images = self._view.apply(images, samples[begin : begin + self._step])
                    slots = part_rows - task.shard * SHARD_FRAMES
                    self._out.put(Chunk(task, images, slots, counted[begin : begin + self._step]))
        self._out.put(End(task, part))
