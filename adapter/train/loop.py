"""The loop: epochs of steps, validation after each, the best checkpoint by validation alone.

Every step seeds all random numbers from (seed, epoch, step) and takes its samples from a plan that is a function of the same three, so a
run that was stopped at any step and resumed makes the same weights, bit for bit on a CPU, as one that never stopped. Of several ranks each
does its part of every batch; gradients and losses are summed, so that all hold the same weights after each step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from d2st.adapter.train.optim import cosine_factor, set_rate
from d2st.adapter.train.sampler import Step, epoch_requests, epoch_steps
from d2st.adapter.train.step import step_gradients
from d2st.adapter.train.trainer import Event, Progress, Trainer
from d2st.cache import Request

__all__ = ["begin_update", "end_update", "requests_of", "run_epoch", "step_rate", "steps_of", "steps_per_epoch"]


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimiser steps in each epoch."""
    return len(steps_of(trainer, 0))


def run_epoch(trainer: Trainer, progress: Progress, *, on_event: Event, after_step: Callable[[], None]) -> None:
    """Go from `progress` to the end of its epoch, whose steps are then all counted in `progress.step`.

    Args:
        on_event: told of each step.
        after_step: called when weights, optimiser and progress agree; may raise to stop.

    Raises:
        RunError: a loss or a gradient is NaN or infinite; names the samples of that step.
    """
    steps = steps_of(trainer, progress.epoch)
    trainer.detector.train()
    stream = trainer.source.stream(requests_of(trainer, progress, steps))
    try:
        for number in range(progress.step, len(steps)):
            began = time.perf_counter()
            lr = begin_update(trainer, progress, steps=len(steps))
            parts = step_gradients(trainer, steps[number], stream, epoch=progress.epoch, number=number)
            trainer.optimizer.step()
            on_event(end_update(trainer, progress, steps, parts, lr=lr, took_s=time.perf_counter() - began))
            after_step()
    finally:
        stream.close()


def requests_of(trainer: Trainer, progress: Progress, steps: Sequence[Step]) -> Iterator[Request]:
    """What the rest of the epoch's `steps` reads, in order."""
    return epoch_requests(
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


def begin_update(trainer: Trainer, progress: Progress, *, steps: int) -> float:
    """Set the learning rate of the next step, with `steps` in an epoch; returns it."""
    lr = step_rate(trainer, progress.epoch, progress.step, steps=steps)
    set_rate(trainer.optimizer, lr)
    return lr


def end_update(
    trainer: Trainer, progress: Progress, steps: Sequence[Step], parts: Mapping[str, float], *, lr: float, took_s: float
) -> dict[str, Any]:
    """Average the weights and count a step whose losses were `parts`, once the optimiser has made it; returns its event."""
    number = progress.step
    if trainer.ema is not None:
        trainer.ema.update(step=progress.epoch * len(steps) + number)
    progress.step = number + 1
    progress.sums = {name: progress.sums.get(name, 0.0) + value for name, value in parts.items()}
    progress.seen += sum(len(pick) for picks in steps[number] for pick in picks)
    progress.train_s, progress.seconds = progress.train_s + took_s, progress.seconds + took_s
    return {
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


def step_rate(trainer: Trainer, epoch: int, step: int, *, steps: int) -> float:
    """Learning rate of one step, both counted from 0, with `steps` in an epoch."""
    optim = trainer.recipe.optim
    return optim.lr * cosine_factor(epoch * steps + step, steps=optim.epochs * steps, warmup_ratio=optim.warmup_ratio)


def steps_of(trainer: Trainer, epoch: int) -> list[Step]:
    """All steps of an epoch, counted from 0."""
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
