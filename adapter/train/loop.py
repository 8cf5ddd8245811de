"""The loop: epochs of steps, validation after each, the best checkpoint by validation alone.

Every step seeds all random numbers from (seed, epoch, step) and takes its samples from a plan that is a function of the same three, so a
run that was stopped at any step and resumed makes the same weights, bit for bit on a CPU, as one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from d2st.adapter.train.augment import jitter_channels
from d2st.adapter.train.objective import Clips, classify, classify_and_align
from d2st.adapter.train.optim import Ema, cosine_factor, set_rate
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.sampler import Step, epoch_requests, epoch_steps
from d2st.adapter.train.seeds import LOSS, seed_everything, step_rng
from d2st.adapter.train.select import Rows
from d2st.cache import Batch, Request
from d2st.cache.errors import RunError

__all__ = ["BatchSource", "Event", "Progress", "Trainer", "run_epoch", "step_rate", "steps_per_epoch"]

Event = Callable[[dict[str, Any]], None]


class BatchSource(Protocol):
    """Whatever streams batches of token maps; `d2st.cache.TokenLoader` is the one in use."""

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]: ...

    def close(self) -> None: ...


@dataclass
class Progress:
    """How far a stage is."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps of the next epoch done
    best_epoch: int = 0  # counted from 1; 0 means none yet
    best_value: float | None = None
    best_loss: float | None = None  # of the validation split, at the best epoch
    seconds: float = 0.0
    # of this epoch alone: samples seen, the time that took, and sums of the loss parts
    seen: int = 0
    train_s: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainer:
    """The parts of a running stage; `stats` as `jitter_channels` takes them."""

    recipe: Recipe
    detector: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    source: BatchSource
    rows: Rows
    stats: Mapping[str, tuple[Tensor, Tensor]]
    clip_frames: int
    device: torch.device


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
    )
    stream = trainer.source.stream(requests)
    try:
        for number in range(progress.step, len(steps)):
            began = time.perf_counter()
            lr = step_rate(trainer, progress.epoch, number, steps=len(steps))
            set_rate(trainer.optimizer, lr)
            parts = _train_step(trainer, steps[number], stream, epoch=progress.epoch, number=number)
            trainer.optimizer.step()
            if trainer.ema is not None:
                trainer.ema.update(trainer.detector, step=progress.epoch * len(steps) + number)
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


def _train_step(trainer: Trainer, step: Step, stream: Iterator[Batch], *, epoch: int, number: int) -> dict[str, float]:
    """Gradients of one step, clipped; returns the weighted losses, averaged over its passes."""
    seed = trainer.recipe.seed
    seed_everything(seed, epoch, number)
    rng = step_rng(seed, epoch, number, LOSS)
    trainer.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for picks in step:
        with torch.autocast("cuda", torch.bfloat16, enabled=trainer.device.type == "cuda"):
            parts = _losses(trainer, stream, picks, rng)
        (sum(parts.values()) / len(step)).backward()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / len(step)
    limit = trainer.recipe.optim.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(trainer.detector.parameters(), limit)
    values = torch.stack([*sums.values(), norm]).tolist()  # the step's one wait for the device
    if not all(math.isfinite(value) for value in values):
        raise _not_finite(trainer, step, dict(zip([*sums, "gradient norm"], values, strict=True)), epoch=epoch, number=number)
    return dict(zip(sums, values, strict=False))


def _losses(
    trainer: Trainer, stream: Iterator[Batch], picks: tuple[np.ndarray, ...], rng: np.random.Generator
) -> dict[str, Tensor]:
    recipe = trainer.recipe
    if len(picks) == 1:
        return classify(trainer.detector, _clips(trainer, next(stream), rng), loss=recipe.loss)
    images = _clips(trainer, next(stream), rng, keep=True)  # the next batch may take its memory
    videos = _clips(trainer, next(stream), rng)
    return classify_and_align(trainer.detector, images, videos, loss=recipe.loss, align=recipe.align, rng=rng)


def _clips(trainer: Trainer, batch: Batch, rng: np.random.Generator, *, keep: bool = False) -> Clips:
    augment, tokens, cls = trainer.recipe.augment, batch.tokens, batch.cls
    if augment.brightness or augment.contrast:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        tokens, cls = jitter_channels(
            tokens, cls, trainer.stats, brightness=augment.brightness, contrast=augment.contrast, generator=generator
        )
    elif keep:
        tokens, cls = ({layer: value.clone() for layer, value in maps.items()} for maps in (tokens, cls))
    mask = batch.mask.clone() if keep else batch.mask
    return Clips(tokens, cls, mask, torch.from_numpy(trainer.rows.label[batch.tag]).to(trainer.device))


def _not_finite(trainer: Trainer, step: Step, values: dict[str, float], *, epoch: int, number: int) -> RunError:
    ids = [trainer.rows.ids[i] for picks in step for pick in picks for i in pick]
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return RunError(
        f"training met a number that is not finite in epoch {epoch + 1}, step {number + 1} ({shown}); its samples: {', '.join(ids)}",
        fix="Lower optim.lr, or look at these samples' features with `d2st cache info`; the last checkpoint is from before this step",
    )
