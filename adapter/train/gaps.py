"""The modality gap of stage 3, before its first step and with its best weights: what its alignment losses are there to narrow.

The gap before is written down at once, and a resumed stage reads it back: the weights that it belongs to are gone by then. The first rank
measures, without a word to the others.
"""

from collections.abc import Mapping
from pathlib import Path

from d2st.adapter.evaluate.gap import modality_gap
from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.select import Selection
from d2st.adapter.train.trainer import Trainer

__all__ = ["gap_after", "gap_before"]

BEFORE = "gap_before.json"


def gap_before(trainer: Trainer, selection: Selection, folder: Path, *, going_on: bool) -> dict[str, float | None] | None:
    """The gap on the validation split of the weights that the stage starts from, as `modality_gap` tells it.

    None in stages 1 and 2, on all ranks but the first, and where a stage that is `going_on` has not written it down.
    """
    if trainer.recipe.stage != 3 or not trainer.ranks.first:
        return None
    if going_on:
        return rundir.read_json(folder / BEFORE) if (folder / BEFORE).is_file() else None
    found = _measure(trainer, selection)
    rundir.write_json(folder / BEFORE, found)
    return found


def gap_after(
    trainer: Trainer, selection: Selection, folder: Path, before: Mapping[str, float | None] | None
) -> dict[str, Mapping[str, float | None] | None] | None:
    """{"before": as it was, "after": the same with the best weights, which the trainer's detector has from then on}, or None."""
    if trainer.recipe.stage != 3 or not trainer.ranks.first:
        return None
    checkpoint.load_weights(trainer.detector, folder / checkpoint.BEST)
    return {"before": before, "after": _measure(trainer, selection)}


def _measure(trainer: Trainer, selection: Selection) -> dict[str, float | None]:
    return modality_gap(
        trainer.detector,
        trainer.source,
        selection.train,
        selection.val,
        clip_frames=trainer.clip_frames,
        seed=trainer.recipe.seed,
    )
