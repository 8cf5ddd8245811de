"""The loop: epochs of steps, validation after each, the best checkpoint by validation alone.

Every step seeds all random numbers from (seed, epoch, step) and takes its samples from a plan that is a function of the same three, so a
run that was stopped at any step and resumed makes the same weights, bit for bit on a CPU, as one that never stopped. Of several ranks each
does its part of every batch; gradients and losses are summed, so that all hold the same weights after each step.
"""

import time
from collections.abc import Callable

from d2st.adapter.train.optim import cosine_factor, set_rate
from d2st.adapter.train.sampler import Step, epoch_requests, epoch_steps
from d2st.adapter.train.step import step_gradients
from d2st.adapter.train.trainer import Event, Progress, Trainer

__all__ = ["run_epoch", "step_rate", "steps_per_epoch"]


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimiser steps in each epoch."""
    return len(_steps(trainer, 0))


def run_epoch(trainer: Trainer, progress: Progress, *, on_event: Event, after_step: Callable[[], None]) -> None:
    """Go from `progress` to the end of its epoch, whose steps are then all counted in `progress.step`.

    Args:
        on_event: told of each step.
        after_step: called when weights, optimiser and progress agree; may raise to stop.

    Raises:
        RunError: a loss or a gradient is NaN or infinite; names the samples of that step.
    """
    steps = _steps(trainer, progress.epoch)
    trainer.detector.train()
    requests = epoch_requests(
        trainer.rows,
        steps,
        stage=trainer.recipe.stage,
        clip_frames=trainer.clip_frames,
        augment=trainer.recipe.augment,
        seed=trainer.recipe.seed,
        epoch=progress.epoch,
        first_step=progress.step,
        ranks=trainer.ranks,
        views=trainer.views,
        stride=trainer.stride,
    )
    stream = trainer.source.stream(requests)
    try:
        for number in range(progress.step, len(steps)):
            began = time.perf_counter()
            lr = step_rate(trainer, progress.epoch, number, steps=len(steps))
            set_rate(trainer.optimizer, lr)
            parts = step_gradients(trainer, steps[number], stream, epoch=progress.epoch, number=number)
            trainer.optimizer.step()
            if trainer.ema is not None:
                trainer.ema.update(step=progress.epoch * len(steps) + number)
            progress.step = number + 1
            progress.sums = {name: progress.sums.get(name, 0.0) + value for name, value in parts.items()}
            progress.seen += sum(len(pick) for picks in steps[number] for pick in picks)
            took = time.perf_counter() - began
            progress.train_s, progress.seconds = progress.train_s + took, progress.seconds + took
            on_event(
                {
                    "event": "step",
                    "stage": trainer.recipe.stage,
                    "epoch": progress.epoch + 1,
                    "epochs": trainer.recipe.optim.epochs,
                    "step": number + 1,
                    "steps": len(steps),
                    "loss": sum(parts.values()),
                    "lr": lr,
                    "samples_per_s": progress.seen / progress.train_s,
                }
            )
            after_step()
    finally:
        stream.close()


def step_rate(trainer: Trainer, epoch: int, step: int, *, steps: int) -> float:
    """Learning rate of one step, both counted from 0, with `steps` in an epoch."""
    optim = trainer.recipe.optim
    return optim.lr * cosine_factor(epoch * steps + step, steps=optim.epochs * steps, warmup_ratio=optim.warmup_ratio)


def _steps(trainer: Trainer, epoch: int) -> list[Step]:
    recipe = trainer.recipe
    return epoch_steps(
        trainer.rows,
        stage=recipe.stage,
        batch_size=recipe.optim.batch_size,
        accumulate=recipe.optim.accumulate,
        balance=recipe.data.balance,
        seed=recipe.seed,
        epoch=epoch,
    )
