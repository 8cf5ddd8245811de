"""A trial: an ordinary stage run that happens to have company."""

from dataclasses import dataclass
from pathlib import Path

from d2st.adapter.train.plan import Plan

__all__ = ["Trial"]


@dataclass(frozen=True)
class Trial:
    """One stage to train.

    Attributes:
        number: of the trial, for events and messages.
        plan: what it trains on and as what.
        folder: the stage's own folder, such as runs/SWEEP/trials/0007/stage2; a begun one is gone on with.
        init: checkpoint to start from; None starts from seeded random weights.
    """

    number: int
    plan: Plan
    folder: Path
    init: Path | None = None
