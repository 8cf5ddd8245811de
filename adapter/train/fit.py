"""From one epoch to the next: train, validate, keep the best, save, stop.

The best epoch is the one with the highest validation AUC; among equals, which small validation sets give, the one with the lower validation
loss. The state to resume from is the last file an epoch writes, so a run killed at any instant goes on from a state that is whole. Of
several ranks the first one writes; all of them score a part of the validation split and stop at the same step.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.operating import operating_points
from d2st.adapter.train import checkpoint
from d2st.adapter.train.exchange import any_of, everyone
from d2st.adapter.train.interrupt import deferred_interrupt
from d2st.adapter.train.log import RunLog
from d2st.adapter.train.loop import run_epoch, step_rate
from d2st.adapter.train.trainer import Event, Progress, Trainer
from d2st.adapter.train.validate import Validated, validate

__all__ = ["SAVE_EVERY_S", "Keeper", "end_epoch", "fit", "keep_epoch", "weights_to_score", "why_ended"]

SAVE_EVERY_S = 300.0  # the most work that a killed run can lose
AGAIN_AFTER_S = 5.0  # with torchrun, which passes on signals that every rank got by itself


@dataclass(frozen=True)
class Keeper:
    """Writes a stage's checkpoints and logs into `folder`; `meta` (JSON values), `stats` and `calibration` go into each checkpoint.

    With `writes` False, which is for all ranks but the first, it only restores.
    """

    folder: Path
    meta: Mapping[str, Any]
    stats: Mapping[str, tuple[Any, Any]]
    calibration: Mapping[str, tuple[Any, Any]]
    writes: bool = True

    def weights(self, name: str, trainer: Trainer, record: Mapping[str, Any], *, operating: Mapping[str, Any]) -> None:
        """Write the detector as it is now; `record` is its epoch's, `operating` its thresholds (`operating_points`)."""
        if not self.writes:
            return
        what = {"epoch": record["epoch"], "metric": record["metric"], "val": record["val"], "operating": operating}
        checkpoint.save_checkpoint(
            self.folder / name, trainer.detector, meta={**self.meta, **what}, stats=self.stats, calibration=self.calibration
        )

    def state(self, trainer: Trainer, progress: Progress) -> None:
        """Write what is needed to go on from here."""
        if self.writes:
            content = {"seed": trainer.recipe.seed, "progress": asdict(progress)}
            checkpoint.save_state(self.folder / checkpoint.STATE, trainer.detector, trainer.optimizer, trainer.ema, content)

    def restore(self, trainer: Trainer) -> Progress:
        """Put the saved state into the trainer; returns how far it had come."""
        content = checkpoint.load_state(self.folder / checkpoint.STATE, trainer.detector, trainer.optimizer, trainer.ema)
        return Progress(**content["progress"])

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch."""
        if self.writes:
            RunLog(self.folder).epoch(record)

    def keep_epochs(self, epochs: int) -> None:
        """Drop what was logged of epochs after number `epochs`."""
        if self.writes:
            RunLog(self.folder).keep_epochs(epochs)

    def say(self, message: str) -> None:
        """Log a line for people."""
        if self.writes:
            RunLog(self.folder).say(message)


def fit(
    trainer: Trainer, progress: Progress, *, val: pl.DataFrame, metric: str, keeper: Keeper, on_event: Event, steps: int
) -> str:
    """Train until the last epoch, or until `patience` epochs passed without a better one.

    Args:
        progress: where to start; brought up to date all the way.
        val: validation samples as `Store.samples()` gives them. metric: the key of `validate`'s result to choose by.
        steps: optimiser steps in an epoch.

    Returns:
        Why it ended: "all epochs" or "no better epoch in N".

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the state was saved at the end of a step.
        RunError: a loss is not finite.
    """
    ranks = trainer.ranks
    keeper.keep_epochs(progress.epoch)
    with deferred_interrupt(again_after_s=AGAIN_AFTER_S if ranks.size > 1 else 0.0) as asked:
        saved = time.monotonic()

        def stop(where: str) -> None:
            keeper.say(f"interrupted after {where}; resume with --resume")
            everyone(ranks, None)  # the first one has written
            raise KeyboardInterrupt

        def after_step() -> None:
            nonlocal saved
            stopping = any_of(ranks, flag=asked())
            if stopping or time.monotonic() - saved > SAVE_EVERY_S:
                keeper.state(trainer, progress)
                saved = time.monotonic()
            if stopping:
                stop(f"epoch {progress.epoch + 1}, step {progress.step}")

        while (ended := why_ended(trainer, progress)) is None:
            began = time.perf_counter()
            run_epoch(trainer, progress, on_event=on_event, after_step=after_step)
            trained = time.perf_counter()
            with weights_to_score(trainer):
                found = validate(trainer.detector, trainer.source, val, clip_frames=trainer.clip_frames, ranks=ranks)
                took_s = time.perf_counter() - trained
                record = end_epoch(trainer, progress, found, metric=metric, keeper=keeper, steps=steps, took_s=took_s)
            record["seconds"] = time.perf_counter() - began
            keep_epoch(trainer, progress, record, keeper=keeper)
            saved = time.monotonic()
            on_event({"event": "epoch", **record})
            if any_of(ranks, flag=asked()):
                stop(f"epoch {progress.epoch}")
    return ended


def why_ended(trainer: Trainer, progress: Progress) -> str | None:
    """Why no further epoch is due, as `fit` returns it, or None."""
    optim = trainer.recipe.optim
    if progress.epoch >= optim.epochs:
        return "all epochs"
    if optim.patience and progress.epoch - progress.best_epoch >= optim.patience:
        return f"no better epoch in {optim.patience}"
    return None


def end_epoch(
    trainer: Trainer,
    progress: Progress,
    found: Validated,
    *,
    metric: str,
    keeper: Keeper,
    steps: int,
    took_s: float,
) -> dict[str, Any]:
    """Move `progress` to the next epoch and write the checkpoints, in `weights_to_score`; returns the epoch's record.

    Args:
        found: what `validate` said, in `took_s` seconds.
    """
    scores = found.scores
    progress.seconds += took_s
    value, loss = scores[metric], scores["loss"]
    better = progress.best_value is None or (value, -loss) > (progress.best_value, -progress.best_loss)
    progress.epoch, progress.step = progress.epoch + 1, 0
    if better:
        progress.best_epoch, progress.best_value, progress.best_loss = progress.epoch, value, loss
    parts = {name: total / steps for name, total in progress.sums.items()}
    record = {
        "stage": trainer.recipe.stage,
        "epoch": progress.epoch,
        "epochs": trainer.recipe.optim.epochs,
        "loss": sum(parts.values()),
        "losses": parts,
        "metric": metric,
        "val": scores,
        "best_epoch": progress.best_epoch,
        "best": progress.best_value,
        "lr": step_rate(trainer, progress.epoch - 1, steps - 1, steps=steps),
        "samples_per_s": progress.seen / progress.train_s,
    }
    progress.seen, progress.train_s, progress.sums = 0, 0.0, {}
    operating = operating_points(found.predictions)  # of exactly the weights that are written here
    if better:
        keeper.weights(checkpoint.BEST, trainer, record, operating=operating)
    keeper.weights(checkpoint.LAST, trainer, record, operating=operating)
    return record


def keep_epoch(trainer: Trainer, progress: Progress, record: Mapping[str, Any], *, keeper: Keeper) -> None:
    """Log an epoch and write the state to resume from, with the trainer's own weights."""
    keeper.epoch(record)
    keeper.state(trainer, progress)


def weights_to_score(trainer: Trainer) -> AbstractContextManager[None]:
    """The averaged weights where there are any: they are what is scored and kept."""
    return nullcontext() if trainer.ema is None else trainer.ema.applied()
