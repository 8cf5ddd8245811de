"""What a tracker is: opened for one stage, given points, closed. Whatever it raises ends that tracker and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Outcome", "Point", "Stage", "Tracker"]

Outcome = Literal["finished", "stopped", "failed"]  # stopped: by Ctrl-C or SIGTERM, to be resumed


@dataclass(frozen=True)
class Stage:
    """The stage that begins or goes on.

    Attributes:
        run: the run's name. number: of the stage. folder: runs/NAME/stageN.
        step: optimiser steps done before, over all epochs.
        settings: the resolved recipe by dotted key ("optim.lr"), and the facts of the start ("train_samples").
    """

    run: str
    number: int
    folder: Path
    step: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """Values at one moment.

    Attributes:
        kind: "step", or "epoch" for what was measured at an epoch's end; both may share a step.
        step: optimiser steps done, over all epochs.
        time_s: seconds since 1970.
        values: "step/loss", "train/loss", "val/video_auc" and so on; finite.
    """

    kind: Literal["step", "epoch"]
    step: int
    time_s: float
    values: Mapping[str, float]


class Tracker(Protocol):
    """One stage in one place. A tracker's module has `open_tracker(stage) -> Tracker`; all three run in the same thread.

    Attributes:
        view: how to look at it, a command or an address.
    """

    view: str

    def log(self, points: Sequence[Point]) -> None:
        """Write points, in the order of their steps, so that they outlive this process, but none that the stage has written before."""

    def close(self, outcome: Outcome, result: Mapping[str, float | str]) -> None:
        """Write the result (empty unless finished) and let go."""
