"""One epoch of one lane: its trials go through the same steps together, on batches that were read once.

A lane is what shares its order of samples: the same stage, seed, batch size and selection, at the same step of the same epoch. Within a
step every trial keeps its own augmentation, losses, gradients, optimiser and averages, by the very functions that train a stage alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import polars as pl
import torch

from d2st.adapter.evaluate.score import score_together
from d2st.adapter.sweep.groups import Groups
from d2st.adapter.sweep.live import Live
from d2st.adapter.sweep.memory import used_bytes
from d2st.adapter.sweep.shared_read import SharedReads, merge
from d2st.adapter.train.fit import end_epoch, keep_epoch, weights_to_score
from d2st.adapter.train.loop import begin_update, end_update, requests_of, steps_of
from d2st.adapter.train.sampler import Step
from d2st.adapter.train.step import check_step, clip_step
from d2st.adapter.train.trainer import Event
from d2st.adapter.train.validate import SCORED, summarise
from d2st.cache import Batch, Request
from d2st.cache.errors import RunError

__all__ = ["train_epoch", "validate_lane"]


def train_epoch(
    lane: Sequence[Live], groups: Groups, reads: SharedReads, *, on_event: Event, after_step: Callable[[], None]
) -> None:
    """Go to the end of the lane's epoch, which leaves every trial at its last step or with an error.

    Args:
        groups: of the lane. after_step: called when weights, optimisers and progress agree; may raise to stop.
    """
    steps = steps_of(lane[0].trainer, lane[0].progress.epoch)
    where = {"epoch": lane[0].progress.epoch + 1, "steps": len(steps)}
    on_event({"event": "lane", **where, "groups": groups.shape()})
    for live in lane:
        live.trainer.detector.train()
    stream = reads.loader([live.need for live in lane]).stream(_requests(lane, steps))
    try:
        for number in range(lane[0].progress.step, len(steps)):
            began = time.perf_counter()
            _step(groups, steps, stream, number=number)
            alive = groups.alive
            rate = len(alive) * sum(len(pick) for picks in steps[number] for pick in picks) / (time.perf_counter() - began)
            on_event(
                {
                    "event": "pass",
                    **where,
                    "step": number + 1,
                    "trials": [live.trial.number for live in alive],
                    "samples_per_s": rate,
                    "memory_bytes": used_bytes(lane[0].trainer.device),
                }
            )
            after_step()
            if not alive:
                return
    finally:
        stream.close()


def validate_lane(groups: Groups, reads: SharedReads) -> Iterator[tuple[Live, dict[str, Any]]]:
    """Score the validation split for all trials that live, and bring each to its next epoch; yields their records.

    Trials of one clip length share a pass: which clips are scored at once depends on it.
    """
    by_length: dict[int, list[Live]] = {}
    for live in groups.alive:
        by_length.setdefault(live.trainer.clip_frames, []).append(live)
    for length, members in by_length.items():
        began = time.perf_counter()
        with ExitStack() as averages:
            for live in members:
                averages.enter_context(weights_to_score(live.trainer))
            scored = score_together(
                [live.trainer.detector for live in members],
                reads.loader([live.need for live in members]),
                members[0].trial.plan.selection.val,
                clip_frames=length,
                speak=groups.speaker(members),
            )
            took_s = (time.perf_counter() - began) / len(members)
            records = [_end(live, table, took_s=took_s) for live, table in zip(members, scored, strict=True)]
        for live, record in zip(members, records, strict=True):
            if record is not None:
                keep_epoch(live.trainer, live.progress, record, keeper=live.begun.keeper)
                yield live, record


def _end(live: Live, scored: pl.DataFrame | RunError, *, took_s: float) -> dict[str, Any] | None:
    if isinstance(scored, RunError):
        live.error = scored
        return None
    record = end_epoch(
        live.trainer,
        live.progress,
        summarise(scored.select(SCORED).sort("sample_id")),
        metric=live.begun.metric,
        keeper=live.begun.keeper,
        steps=live.trial.plan.steps,
        took_s=took_s,
    )
    record["seconds"], live.epoch_s = live.epoch_s + took_s, 0.0
    return record


def _requests(lane: Sequence[Live], steps: Sequence[Step]) -> Iterator[Request]:
    """The union of what the trials read, batch by batch, tagged with where each trial's frames are in it."""
    for requests in zip(*(requests_of(live.trainer, live.progress, steps) for live in lane), strict=True):
        union, places = merge(requests)
        yield Request(union.rows, {live.trial.number: place for live, place in zip(lane, places, strict=True)})


def _step(groups: Groups, steps: Sequence[Step], stream: Iterator[Batch], *, number: int) -> None:
    began = time.perf_counter()
    step, alive = steps[number], groups.alive
    epoch = alive[0].progress.epoch
    rates = {live.trial.number: begin_update(live.trainer, live.progress, steps=len(steps)) for live in alive}
    groups.begin(epoch=epoch, number=number)
    for turn, picks in enumerate(step):
        batches = [_kept(next(stream)) for _ in picks[1:]] + [next(stream)]
        groups.run_pass(batches, picks, passes=len(step), epoch=epoch, number=number, turn=turn)
    summed = groups.sums()
    clipped = [clip_step(live.trainer, sums) for live, sums in summed]
    values, parts = iter(torch.cat(clipped).tolist() if clipped else []), {}  # the step's one wait for the device
    for (live, sums), own in zip(summed, clipped, strict=True):
        mine = list(islice(values, len(own)))
        try:
            parts[live.trial.number] = check_step(live.trainer, step, sums, mine, epoch=epoch, number=number)
            live.trainer.optimizer.step()
        except RunError as error:
            live.error = error
    took_s = (time.perf_counter() - began) / len(alive)
    for live in groups.alive:
        live.epoch_s += took_s
        mine = live.trial.number
        live.tell(end_update(live.trainer, live.progress, steps, parts[mine], lr=rates[mine], took_s=took_s))


def _kept(batch: Batch) -> Batch:
    """A copy that outlives the stream's next batch."""
    tokens, cls = ({layer: value.clone() for layer, value in maps.items()} for maps in (batch.tokens, batch.cls))
    return Batch(tokens, cls, batch.mask.clone(), batch.tag)
