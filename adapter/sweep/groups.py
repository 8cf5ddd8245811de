"""How the trials of a lane are computed in each pass: equal networks that see the same clips as one stack, the others one by one."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2st.adapter.nets import Output
from d2st.adapter.sweep.choices import Choices
from d2st.adapter.sweep.group import Group, Made
from d2st.adapter.sweep.live import Live, input_key, stack_key
from d2st.adapter.sweep.memory import is_out_of_memory
from d2st.adapter.sweep.shared_read import Gatherer
from d2st.adapter.sweep.stack import same_buffers
from d2st.adapter.train.trainer import Event
from d2st.cache import Batch
from d2st.cache.errors import RunError

__all__ = ["Groups"]


class Groups:
    """The groups of one lane for one epoch."""

    def __init__(self, lane: Sequence[Live], *, choices: Choices, device: torch.device, on_event: Event) -> None:
        self._choices, self._say = choices, on_event
        self._groups = [part for group in _equals(lane) for part in group.cut(choices.most(group.kind) or len(group.members))]
        self._gatherers = [Gatherer(device) for _ in range(2)]

    @property
    def alive(self) -> list[Live]:
        """The trials without an error."""
        return [live for group in self._groups for live in group.members if live.error is None]

    def shape(self) -> list[dict[str, Any]]:
        """Which trials are computed how, for the record."""
        return [
            {"trials": [live.trial.number for live in group.members], "stacked": self._stacks(group)} for group in self._groups
        ]

    def begin(self, *, epoch: int, number: int) -> None:
        """Begin a step of all trials that live."""
        self._groups = [group for group in (each.without_failed() for each in self._groups) if group is not None]
        for group in self._groups:
            group.begin(epoch=epoch, number=number)

    def run_pass(self, batches: Sequence[Batch], picks: tuple[np.ndarray, ...], *, passes: int, **at: int) -> None:
        """Add the gradients of one pass to those of all trials.

        Args:
            batches: of `merge`, all valid at once, tagged with each trial's places. at: as `seed_pass` takes it.
        """
        self._groups = [part for group in self._groups for part in self._run(group, batches, picks, passes=passes, at=at)]

    def sums(self) -> list[tuple[Live, dict[str, Tensor]]]:
        """Each trial that lives with the losses of the step."""
        return [(live, group.sums[live.trial.number]) for group in self._groups for live in group.members if live.error is None]

    def speaker(self, members: Sequence[Live]) -> Callable[..., list[Output]]:
        """Gives the outputs of these trials' detectors, stacked where that is faster and fits: a batch may hold more clips than a step."""
        stacks = [
            group
            for group in self._groups
            if self._stacks(group) and all(any(live is one for one in members) for live in group.members)
        ]

        def speak(tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> list[Output]:
            said: dict[int, Output] = {}
            for group in list(stacks):
                try:
                    outputs = group.stack(tokens, cls, mask)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    stacks.remove(group)
                else:
                    said |= zip((live.trial.number for live in group.members), outputs, strict=True)
                    continue
                _give_back()
                self._tell(group, f"memory ran out with {len(group.members)} at once in validation; going on one by one")
            return [said.get(live.trial.number) or live.trainer.detector(tokens, cls, mask) for live in members]

        return speak

    def _stacks(self, group: Group) -> bool:
        choices = self._choices
        return len(group.members) > 1 and choices.settled(group.kind) and choices.mode(group.kind) == "stacked"

    def _run(
        self, group: Group, batches: Sequence[Batch], picks: tuple[np.ndarray, ...], *, passes: int, at: dict[str, int]
    ) -> list[Group]:
        """One pass of one group; gives what it has become."""
        first = group.members[0]
        own = [
            gatherer.take(batch, batch.tag[first.trial.number], first.need)
            for gatherer, batch in zip(self._gatherers, batches, strict=False)
        ]
        made, frames = group.clips(own, picks), len(group.members) * sum(batch.mask.numel() for batch in own)
        run = self._alone if self._choices.mode(group.kind) == "alone" else self._together
        question = not self._choices.settled(group.kind)
        became = run(group, made, frames=frames, passes=passes, at=at)
        if question and self._choices.settled(group.kind) and (found := self._choices.verdict(group.kind)):
            self._tell(group, found)
        return became

    def _alone(self, group: Group, made: Made, *, frames: int, passes: int, at: dict[str, int]) -> list[Group]:
        with self._choices.timed(group.kind, "alone", frames=frames):
            for live in group.members:
                try:
                    with self._choices.measured(group.kind):
                        group.alone(live, made, passes=passes, **at)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    live.error = RunError(
                        f"memory ran out in trial {live.trial.number}, which was computed alone",
                        fix="Lower optim.batch_size or data.frames, or run fewer trials at once",
                    )
        return group.cut(self._choices.most(group.kind) or len(group.members))

    def _together(self, group: Group, made: Made, *, frames: int, passes: int, at: dict[str, int]) -> list[Group]:
        kind, count = group.kind, len(group.members)
        try:
            with self._choices.timed(kind, "stacked", frames=frames):
                group.together(made, passes=passes)
            return [group]
        except (RuntimeError, MemoryError) as error:
            full, reason = is_out_of_memory(error), str(error).partition("\n")[0]
            if not full and self._choices.settled(kind):
                raise
        _give_back()
        if not full:
            self._choices.refuse(kind)
            self._tell(group, f"one by one, for these networks can't be stacked: {reason}")
            return self._alone(group, made, frames=frames, passes=passes, at=at)
        most = (count + 1) // 2
        self._choices.limit(kind, most)
        self._tell(group, f"memory ran out with {count} at once; going on with {most}")
        return [
            part
            for half in group.cut(most)
            for part in (self._together if half.kind else self._alone)(half, made, frames=frames, passes=passes, at=at)
        ]

    def _tell(self, group: Group, message: str) -> None:
        names = ", ".join(str(live.trial.number) for live in group.members)
        self._say({"event": "note", "message": f"trials {names}: {message}"})
        for live in group.members:
            live.begun.keeper.say(f"with trials {names}: {message}")


def _give_back() -> None:
    """Free what an error held of what it was computing; to be called outside of its handler, which still holds it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _equals(lane: Sequence[Live]) -> list[Group]:
    """The trials as groups of equal networks on equal clips, those of equal clips side by side."""
    found: list[list[Live]] = []
    for live in sorted(lane, key=lambda live: repr(input_key(live))):
        key = stack_key(live)
        for group in found if key is not None else ():
            first = group[0]
            if stack_key(first) == key and same_buffers(first.trainer.detector, live.trainer.detector):
                group.append(live)
                break
        else:
            found.append([live])
    return [Group(members) for members in found]
