"""Trials that see the same clips through equal networks: their gradients of one pass, all at once or one by one."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2st.adapter.sweep.live import Live, stack_key
from d2st.adapter.sweep.stack import Stack
from d2st.adapter.train.objective import Clips
from d2st.adapter.train.step import add_parts, begin_step, make_clips, pass_losses, seed_pass
from d2st.cache import Batch

__all__ = ["Group", "Made"]

Made = tuple[list[Clips], Tensor | None]  # as `make_clips` gives it


class Group:
    """Trials of a lane that see the same clips through equal networks, or one trial."""

    def __init__(self, members: Sequence[Live], rng: np.random.Generator | None = None) -> None:
        self.members, self.kind = list(members), stack_key(members[0]) if len(members) > 1 else None
        self._stack: Stack | None = None
        self._rng = rng
        self.sums: dict[int, dict[str, Tensor]] = {live.trial.number: {} for live in members}

    @property
    def stack(self) -> Stack:
        """Made when it is needed for the first time."""
        if self._stack is None:
            self._stack = Stack([live.trainer.detector for live in self.members])
        return self._stack

    def begin(self, *, epoch: int, number: int) -> None:
        """Begin a step."""
        self._rng, *_ = (begin_step(live.trainer, epoch=epoch, number=number) for live in self.members)
        self.sums = {live.trial.number: {} for live in self.members}

    def clips(self, batches: Sequence[Batch], picks: tuple[np.ndarray, ...]) -> Made:
        """The clips of a pass, which are the same for all members."""
        return make_clips(self.members[0].trainer, iter(batches), picks, self._rng, lasting=True)

    def together(self, made: Made, *, passes: int) -> None:
        """Add the gradients of a pass, by one forward and one backward pass for all."""
        speakers = self.stack.speakers()
        parts = [pass_losses(live.trainer, speak, *made) for live, speak in zip(self.members, speakers, strict=True)]
        self.stack.backward(torch.stack([value for each in parts for value in each.values()]).sum() / passes)
        for live, each in zip(self.members, parts, strict=True):
            add_parts(self.sums[live.trial.number], each, passes=passes)

    def alone(self, live: Live, made: Made, *, passes: int, **at: int) -> None:
        """Add the gradients of a pass to one member's, exactly as in training alone."""
        seed_pass(live.trainer, **at)
        parts = pass_losses(live.trainer, live.trainer.detector, *made)
        torch.stack(list(parts.values())).sum().div(passes).backward()
        add_parts(self.sums[live.trial.number], parts, passes=passes)

    def cut(self, most: int) -> "list[Group]":
        """The same trials, in the middle of a step or not, as groups of `most` at most."""
        if most >= len(self.members):
            return [self]
        parts = [self.members[i : i + most] for i in range(0, len(self.members), most)]
        groups = [Group(part, copy.deepcopy(self._rng)) for part in parts]
        for group in groups:
            group.sums = {number: self.sums[number] for number in group.sums}
        return groups

    def without_failed(self) -> "Group | None":
        """This group, or a new one of those members that have no error, or None."""
        alive = [live for live in self.members if live.error is None]
        return self if len(alive) == len(self.members) else Group(alive, self._rng) if alive else None
