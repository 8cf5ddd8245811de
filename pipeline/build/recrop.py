"""Single samples of a committed shard, cropped from their media once more; what is whole of the shard is kept as it is.

A shard is written anew only when every damaged sample comes back with as many frames as it had: else other samples of it, or token maps
that are still good, would be lost for the sake of one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import StoreError
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import Level
from d2st.cache.mend import known_rows, salvage
from d2st.cache.verify.level_shards import slots_of
from d2st.pipeline.build.crops import Media, Sample, crop_media
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.rows import Row, Rows
from d2st.pipeline.build.work import Task

__all__ = ["mend_crops"]


def mend_crops(
    level: Level, shards: Mapping[int, frozenset[str]], rows: Rows, media: Media | None
) -> Iterator[tuple[int, str]]:
    """Make the damaged samples of these shards anew, and write the shards.

    Args:
        shards: by number, the samples that are not to be trusted even where their frames look whole.
        rows: all samples of the plan with their manifest rows.
        media: None where no media are at hand: then only what needs none is mended.

    Yields:
        (shard, "") for each one that was mended, (shard, why not) for the others.
    """
    left = {shard: _Left(level, shard, rows, distrusted) for shard, distrusted in shards.items()}
    asked = {shard: [row for row in state.planned if row["sample_id"] in state.lost] for shard, state in left.items()}
    for shard, state in left.items():
        if not asked[shard]:
            yield shard, state.write({})
        elif media is None:
            yield shard, f"{len(asked[shard])} samples must be cropped again: name the media's folder with --root"
    if media is None or not any(asked.values()):
        return
    todo = _Asked({shard: found for shard, found in asked.items() if found})
    made: dict[str, Sample] = {}
    with Flow() as flow:
        pipe = Pipe[Sample | Task](flow, SHARD_FRAMES)
        flow.run("crop", lambda: crop_media(flow, pipe, todo, todo, media, wait=False, decoding=Clock(), cropping=Clock()))
        for item in pipe:
            if isinstance(item, Sample):
                made[item.entry["sample_id"]] = item
                continue
            yield item.shard, left[item.shard].write(made)
            made.clear()
            todo.begun.discard(item.shard)
            flow.wake()


class _Asked:
    """The shards and samples to crop again, in the place of `Work` and `Rows`."""

    def __init__(self, rows: Mapping[int, list[Row]]) -> None:
        self._rows = rows
        self.waiting = sorted(rows)
        self.begun: set[int] = set()

    def take(self) -> Task | None:
        """The next shard."""
        if not self.waiting:
            return None
        self.begun.add(self.waiting[0])
        return Task(self.waiting.pop(0), needs_crops=True, needs_tokens=False)

    def of(self, shard: int) -> list[Row]:
        """Its samples."""
        return self._rows[shard]


class _Left:
    """What is left of one shard.

    Attributes:
        planned: its samples, by the plan.
        lost: ids of those that must be cropped: frames of theirs are gone, or nothing says whether they have any.
    """

    def __init__(self, level: Level, shard: int, rows: Rows, distrusted: frozenset[str]) -> None:
        self._level, self._shard, self._distrusted = level, shard, distrusted
        self.planned = rows.of(shard) if shard in rows.shards else []
        known, complete = known_rows(level.store, shard)
        self._known = known is not None
        table = LEDGER_SCHEMA.to_frame() if known is None else known.select(LEDGER_SCHEMA.names())
        self._slots = slots_of(table, shard)
        self._old: dict[str, dict[str, Any]] = {row["sample_id"]: row for row in table.to_dicts()}
        self._order = list(self._old) if complete else [row["sample_id"] for row in self.planned]
        frames = self._frames()
        self.lost = {sample for slot, sample in self._slots.items() if slot not in frames} | (
            set(self._order) - self._old.keys()
        )

    def _frames(self) -> dict[int, np.ndarray]:
        """Whole frames (S,S,3) by slot."""
        size = self._level.config["size"]
        file = self._level.shard_file("frames", self._shard, frame_dims=3)
        found = salvage(file, list(self._slots), size * size * 3)
        return {
            slot: np.frombuffer(frame, np.uint8).reshape(size, size, 3)
            for slot, frame in found.items()
            if self._slots[slot] not in self._distrusted
        }

    def write(self, made: Mapping[str, Sample]) -> str:
        """Write the shard with these samples in place of those that are lost; returns why not, or ""."""
        first, following = self._shard * SHARD_FRAMES, self._shard * SHARD_FRAMES
        frames, entries = self._frames(), []
        for sample in self._order:
            old, new = self._old.get(sample), made.get(sample)
            if new is None:
                if sample in self.lost:
                    return f"sample {sample} has no place in the plan any more"
                entries.append(old)
                continue
            count = len(new.images)
            if old is not None and count != old["frames"]:
                why = new.entry["detail"] or f"its file gives {count} now"
                return f"sample {sample} can't be made again: {old['frames']} frames were cached, {why}"
            if old is None and self._known and count:  # token maps know all that were cached, and not this one
                left_out = {"frames": 0, "reason": "missing", "detail": "it was left out before", "info": "{}", "start": None}
                entries.append({**new.entry, **left_out})
                continue
            start = old["start"] if old is not None else following
            entries.append({**new.entry, "start": start if count else None})
            frames |= {start - first + i: image for i, image in enumerate(new.images)}
            following += count
        table = pl.DataFrame(entries, schema=LEDGER_SCHEMA)
        if set(slots_of(table, self._shard)) != set(frames):
            raise StoreError(f"shard {self._shard} of {self._level.path} does not fit together any more")
        with self._level.stage(self._shard) as staged:
            if frames:
                writer, used = staged.writer("frames", frame_dims=3), 0
                for slot in sorted(frames):
                    writer.skip(slot - used)
                    writer.append(frames[slot][None])
                    used = slot + 1
            staged.commit(table, replace=True)
        return ""
