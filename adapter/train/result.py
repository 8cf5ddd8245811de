"""What a finished stage has to show, and the file that says that it is finished."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.trainer import Progress
from d2st.cache.errors import RunError

__all__ = ["StageResult", "read_result", "write_result"]


@dataclass(frozen=True)
class StageResult:
    """What a finished stage has to show. `metric` is what its best epoch was chosen by, `value` that epoch's; `best` is the checkpoint.

    gflops: arithmetic of one clip forward; None in runs from before it was kept.
    gap: of stage 3, {"before": ..., "after": ...} as `modality_gap` tells it on the validation split.
    """

    stage: int
    adapter: str
    best: Path
    metric: str
    value: float
    best_epoch: int
    epochs: int
    ended: str
    train_samples: int
    val_samples: int
    parameters: int
    seconds: float
    init: str | None
    gflops: float | None = None
    gap: dict[str, Any] | None = None


def write_result(run_dir: Path, facts: Mapping[str, Any], progress: Progress) -> None:
    """Write the result, which marks a stage as finished."""
    outcome = {
        "value": progress.best_value,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": progress.seconds,
    }
    rundir.write_json(run_dir / rundir.RESULT, {**facts, **outcome, **rundir.finished_now()})


def read_result(run_dir: Path) -> StageResult:
    """What a finished stage wrote. Raises RunError when the file is damaged."""
    stored = rundir.read_json(run_dir / rundir.RESULT)
    later = {"gflops", "gap"}  # older runs have none
    names = StageResult.__dataclass_fields__.keys() - {"best"} - later
    try:
        found = {name: stored[name] for name in names} | {name: stored.get(name) for name in later}
        return StageResult(best=run_dir / checkpoint.BEST, **found)
    except KeyError as error:
        raise RunError(f"{run_dir / rundir.RESULT} lacks {error}", fix="Remove that run and train again") from error
