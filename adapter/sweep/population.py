"""Trains a changing population of trials on shared passes over the cache.

The decision that shaped it: an epoch is the unit. All lanes take one epoch each, then trials leave, and the free places are filled all at
once, so that newcomers begin together and share a lane. Everything a trial writes, it writes as a stage trained alone does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from d2st.adapter.sweep.choices import Choices
from d2st.adapter.sweep.groups import Groups
from d2st.adapter.sweep.live import Live, Whitener, begin_trial, lane_key
from d2st.adapter.sweep.memory import free_bytes, kept_bytes
from d2st.adapter.sweep.shared_read import SharedReads
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.sweep.walk import train_epoch, validate_lane
from d2st.adapter.train import rundir
from d2st.adapter.train.begun import end_stage
from d2st.adapter.train.fit import SAVE_EVERY_S, why_ended
from d2st.adapter.train.interrupt import deferred_interrupt
from d2st.adapter.train.prepare import frames_read
from d2st.adapter.train.result import StageResult, read_result
from d2st.adapter.train.stage import refuse_other_run
from d2st.adapter.train.trainer import Event
from d2st.cache import Store
from d2st.cache.errors import D2stError, StoreError

__all__ = ["PRUNED", "Trial", "run_population"]

PRUNED = "pruned"  # how a result says that `on_epoch` ended it
MOST = 64  # trials at once, whatever the memory
MEMORY_SHARE = 0.3  # of what is free, for what trials keep between steps


class _Stopped(Exception):
    """All states are saved."""


def run_population(
    store: Store,
    *,
    propose: Callable[[int], list[Trial]],
    on_epoch: Callable[[Trial, dict[str, Any]], bool],
    on_end: Callable[[Trial, StageResult | D2stError | None], None],
    device: str,
    capacity: int | None = None,
    in_memory: bool = False,
    on_event: Event = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train what `propose` proposes until nothing lives and it proposes nothing.

    Args:
        propose: gives up to so many new trials, which may have begun before; called whenever places are free, between epochs.
        on_epoch: told of each epoch's record, as a stage's metrics.jsonl has it; False prunes the trial.
        on_end: told how each trial ended: its result; the error that it failed by; None for a pruned one. Not told of trials that
            Ctrl-C or `stop` interrupted: their state is saved.
        device: "cpu", "cuda" or "cuda:N".
        capacity: trials at once; None is as many as fit into memory, 64 at most.
        in_memory: as in `train_stage`.
        on_event: told of all that the trials' stages tell, with the key "trial" added; of "note" (message); of "lane" as an epoch of
            trials that share batches begins (epoch, steps, groups: a list of trials and whether they are stacked); and of
            "pass" after each of its steps (epoch, step, steps, trials, samples_per_s of all trials together, memory_bytes).
        stop: asked between steps; True saves all states and returns.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all states are saved.
        StoreError: the cache is damaged, the disk is full, or `in_memory` does not fit.
    """
    reads = SharedReads(store, device=device, in_memory=in_memory)
    population = _Population(
        store, reads, propose=propose, on_epoch=on_epoch, on_end=on_end, device=device, capacity=capacity, on_event=on_event
    )
    try:
        with deferred_interrupt() as asked:
            try:
                population.run(lambda: asked() or stop())
            except _Stopped:
                if asked():
                    raise KeyboardInterrupt from None
    finally:
        reads.close()


class _Population:
    """What `run_population` works with."""

    def __init__(self, store: Store, reads: SharedReads, *, device: str, capacity: int | None, **calls: Any) -> None:
        self._store, self._reads, self._device, self._capacity = store, reads, device, capacity
        names = ("propose", "on_epoch", "on_end", "on_event")
        self._propose, self._on_epoch, self._on_end, self._on_event = (calls[name] for name in names)
        self._whitener, self._choices = Whitener(), Choices(torch.device(device))
        self._lives: list[Live] = []
        self._saved = time.monotonic()

    def run(self, stopping: Callable[[], bool]) -> None:
        """All epochs of all trials. Raises _Stopped."""
        while True:
            self._fill()
            if not self._lives:
                return
            for lane in self._lanes():
                self._epoch(lane, stopping)
                if stopping():
                    self._stop()
            self._reads.close_unused()

    def _fill(self) -> None:
        """Let trials begin as long as there are places and proposals."""
        while (places := self._places()) > 0 and (proposed := self._propose(places)):
            for trial in proposed:
                self._begin(trial)

    def _places(self) -> int:
        if self._capacity is not None:
            return self._capacity - len(self._lives)
        if not self._lives:
            return 1  # what a trial takes is known when one is there
        largest = max(kept_bytes(live.trainer) for live in self._lives)
        fit = len(self._lives) + int(MEMORY_SHARE * free_bytes(torch.device(self._device)) / largest)
        return min(MOST, fit) - len(self._lives)

    def _begin(self, trial: Trial) -> None:
        try:
            refuse_other_run(trial.folder, trial.plan)
            if (trial.folder / rundir.RESULT).is_file():
                result = read_result(trial.folder)
                self._on_end(trial, None if result.ended == PRUNED else result)
                return
            self._reads.frames = max(self._reads.frames, frames_read(trial.plan))
            options = {"device": self._device, "on_event": self._on_event, "whitener": self._whitener}
            live = begin_trial(self._store, trial, reads=self._reads, **options)
        except StoreError:  # the cache or the disk is at fault, and not the trial: once that is mended, it can go on
            raise
        except D2stError as error:
            self._on_end(trial, error)
            return
        alike = (other for other in self._lives if other.trial.plan.selection is trial.plan.selection)
        if (other := next(alike, None)) is not None:  # of a large manifest every copy counts
            live.begun = replace(live.begun, trainer=replace(live.trainer, rows=other.trainer.rows))
        self._lives.append(live)
        if (ended := why_ended(live.trainer, live.progress)) is not None:  # killed between its last epoch and its result
            self._end(live, ended)

    def _lanes(self) -> list[list[Live]]:
        lanes: dict[Any, list[Live]] = {}
        for live in self._lives:
            lanes.setdefault(lane_key(live), []).append(live)
        return [*lanes.values()]

    def _epoch(self, lane: Sequence[Live], stopping: Callable[[], bool]) -> None:
        groups = Groups(lane, choices=self._choices, device=torch.device(self._device), on_event=self._on_event)

        def after_step() -> None:
            if stopping():
                self._stop()
            if time.monotonic() - self._saved > SAVE_EVERY_S:
                self._save()

        train_epoch(lane, groups, self._reads, on_event=self._on_event, after_step=after_step)
        for live, record in validate_lane(groups, self._reads):
            live.tell({"event": "epoch", **record})
            goes_on = self._on_epoch(live.trial, record)
            ended = why_ended(live.trainer, live.progress) or (None if goes_on else PRUNED)
            if ended is not None:
                self._end(live, ended)
        for live in lane:
            if live.error is not None:
                live.begun.keeper.say(f"failed: {live.error}")
                self._leave(live, live.error)

    def _end(self, live: Live, ended: str) -> None:
        result = end_stage(live.begun, ended, on_event=live.tell)
        self._leave(live, None if ended == PRUNED else result)

    def _leave(self, live: Live, outcome: StageResult | D2stError | None) -> None:
        self._lives = [one for one in self._lives if one is not live]
        self._on_end(live.trial, outcome)

    def _save(self) -> None:
        for live in self._lives:
            if live.error is None:
                live.begun.keeper.state(live.trainer, live.progress)
        self._saved = time.monotonic()

    def _stop(self) -> None:
        self._save()
        for live in self._lives:
            progress = live.progress
            where = f"epoch {progress.epoch + 1}, step {progress.step}" if progress.step else f"epoch {progress.epoch}"
            live.begun.keeper.say(f"interrupted after {where}")
        raise _Stopped
