"""One step: the gradients of its passes, augmented and in the precision asked for, summed over the ranks, clipped, and checked.

All random numbers are drawn for the whole batch and then cut into the ranks' parts, so that a step means the same to any number of ranks.
Two exceptions: dropout inside an adapter, whose masks each rank draws for itself, and interpolation, whose partners are in the same part.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from d2st.adapter.precision import autocast
from d2st.adapter.train.augment import interpolate_within, jitter_channels
from d2st.adapter.train.exchange import sum_over, told_once
from d2st.adapter.train.objective import Clips, classify, classify_and_align
from d2st.adapter.train.ranks import own_part
from d2st.adapter.train.sampler import Step
from d2st.adapter.train.seeds import LOSS, seed_everything, step_rng
from d2st.adapter.train.trainer import Trainer
from d2st.cache import Batch
from d2st.cache.errors import RunError

__all__ = ["step_gradients"]


def step_gradients(trainer: Trainer, step: Step, stream: Iterator[Batch], *, epoch: int, number: int) -> dict[str, float]:
    """Leave the gradients of one step, clipped, in the parameters; returns the weighted losses, averaged over its passes.

    Args:
        step: its passes. stream: gives this rank's part of their batches, in order. epoch, number: of the step, both from 0.

    Raises:
        RunError: a loss or the gradient is NaN or infinite; names the samples of the step.
    """
    seed, ranks = trainer.recipe.seed, trainer.ranks
    seed_everything(seed, epoch, number, *((ranks.rank,) if ranks.size > 1 else ()))
    rng = step_rng(seed, epoch, number, LOSS)
    trainer.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for picks in step:
        parts = _losses(trainer, stream, picks, rng)
        torch.stack(list(parts.values())).sum().div(len(step)).backward()
        for name, value in parts.items():
            part = value.detach() / len(step)
            sums[name] = sums[name] + part if name in sums else part
    sum_over(ranks, [*sums.values(), *(each.grad for each in trainer.parameters if each.grad is not None)])
    norm = nn.utils.clip_grad_norm_(trainer.parameters, trainer.recipe.optim.clip_norm or math.inf)
    values = torch.stack([*sums.values(), norm]).tolist()  # the step's one wait for the device
    if not all(math.isfinite(value) for value in values):
        error = _not_finite(trainer, step, dict(zip([*sums, "gradient norm"], values, strict=True)), epoch=epoch, number=number)
        raise told_once(ranks, error)
    return dict(zip(sums, values, strict=False))


def _losses(
    trainer: Trainer, stream: Iterator[Batch], picks: tuple[np.ndarray, ...], rng: np.random.Generator
) -> dict[str, Tensor]:
    recipe, how = trainer.recipe, {"loss": trainer.recipe.loss, "class_weight": trainer.class_weight}
    if len(picks) == 1:
        clips = _clips(trainer, next(stream), picks[0], rng)
        with autocast(trainer.device, trainer.dtype):
            return classify(trainer.detector, clips, **how)
    images = _clips(trainer, next(stream), picks[0], rng, keep=True)  # the next batch may take its memory
    videos = _clips(trainer, next(stream), picks[1], rng)
    luck = torch.from_numpy(rng.random(len(picks[1]))[own_part(trainer.ranks, len(picks[1]))]).to(trainer.device)
    with autocast(trainer.device, trainer.dtype):
        return classify_and_align(trainer.detector, images, videos, align=recipe.align, luck=luck, ranks=trainer.ranks, **how)


def _clips(trainer: Trainer, batch: Batch, pick: np.ndarray, rng: np.random.Generator, *, keep: bool = False) -> Clips:
    """This rank's clips of the batch that shows the samples `pick`, augmented; `keep` makes them outlive the loader's next batch."""
    augment, tokens, cls = trainer.recipe.augment, batch.tokens, batch.cls
    part = own_part(trainer.ranks, len(pick))
    labels = torch.from_numpy(trainer.rows.label[pick]).to(trainer.device)
    mask = batch.mask.clone() if keep else batch.mask
    changes = augment.brightness or augment.contrast or augment.interpolate
    if changes:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if augment.brightness or augment.contrast:
        tokens, cls = jitter_channels(
            tokens,
            cls,
            trainer.stats,
            brightness=augment.brightness,
            contrast=augment.contrast,
            generator=generator,
            whole=len(pick),
            first=part.start,
        )
    if augment.interpolate:  # of several ranks, between the clips of one
        tokens, cls = interpolate_within(tokens, cls, labels[part], mask, probability=augment.interpolate, generator=generator)
    if keep and not changes:
        tokens, cls = ({layer: value.clone() for layer, value in maps.items()} for maps in (tokens, cls))
    return Clips(tokens, cls, mask, labels[part], labels)


def _not_finite(trainer: Trainer, step: Step, values: dict[str, float], *, epoch: int, number: int) -> RunError:
    ids = [trainer.rows.ids[i] for picks in step for pick in picks for i in pick]
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return RunError(
        f"training met a number that is not finite in epoch {epoch + 1}, step {number + 1} ({shown}); its samples: {', '.join(ids)}",
        fix="Lower optim.lr, or look at these samples' features with `d2st cache info`; the last checkpoint is from before this step",
    )
