"""One step: the gradients of its passes, augmented and in the precision asked for, summed over the ranks, clipped, and checked.

All random numbers are drawn for the whole batch and then cut into the ranks' parts, so that a step means the same to any number of ranks.
Two exceptions: dropout inside an adapter, whose masks each rank draws for itself, and interpolation, whose partners are in the same part.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from d2st.adapter.nets import Output
from d2st.adapter.precision import autocast
from d2st.adapter.train.augment import interpolate_within, jitter_channels
from d2st.adapter.train.exchange import sum_gradients, told_once
from d2st.adapter.train.objective import Clips, classify, classify_and_align
from d2st.adapter.train.ranks import own_part
from d2st.adapter.train.sampler import Step
from d2st.adapter.train.seeds import LOSS, seed_everything, step_rng
from d2st.adapter.train.trainer import Trainer
from d2st.cache import Batch
from d2st.cache.errors import RunError

__all__ = [
    "Speak",
    "add_parts",
    "begin_step",
    "check_step",
    "clip_step",
    "make_clips",
    "pass_losses",
    "seed_pass",
    "step_gradients",
]

Speak = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor], Output]  # a detector's forward pass


def step_gradients(trainer: Trainer, step: Step, stream: Iterator[Batch], *, epoch: int, number: int) -> dict[str, float]:
    """Leave the gradients of one step, clipped, in the parameters; returns the weighted losses, averaged over its passes.

    Args:
        step: its passes. stream: gives this rank's part of their batches, in order. epoch, number: of the step, both from 0.

    Raises:
        RunError: a loss or the gradient is NaN or infinite; names the samples of the step.
    """
    rng = begin_step(trainer, epoch=epoch, number=number)
    sums: dict[str, Tensor] = {}
    for turn, picks in enumerate(step):
        seed_pass(trainer, epoch=epoch, number=number, turn=turn)
        parts = pass_losses(trainer, trainer.detector, *make_clips(trainer, stream, picks, rng))
        torch.stack(list(parts.values())).sum().div(len(step)).backward()
        add_parts(sums, parts, passes=len(step))
    values = clip_step(trainer, sums).tolist()  # the step's one wait for the device
    return check_step(trainer, step, sums, values, epoch=epoch, number=number)


def begin_step(trainer: Trainer, *, epoch: int, number: int) -> np.random.Generator:
    """Forget the last step's gradients; returns the generator of this step's augmentation."""
    trainer.optimizer.zero_grad(set_to_none=True)
    return step_rng(trainer.recipe.seed, epoch, number, LOSS)


def seed_pass(trainer: Trainer, *, epoch: int, number: int, turn: int) -> None:
    """Seed what dropout draws from: pass number `turn` of a step draws the same whatever was computed before it."""
    rank = trainer.ranks.rank
    seed_everything(trainer.recipe.seed, epoch, number, *((rank, turn) if turn else (rank,) if trainer.ranks.size > 1 else ()))


def add_parts(sums: dict[str, Tensor], parts: Mapping[str, Tensor], *, passes: int) -> None:
    """Add one pass's losses to the step's means."""
    for name, value in parts.items():
        part = value.detach() / passes
        sums[name] = sums[name] + part if name in sums else part


def clip_step(trainer: Trainer, sums: Mapping[str, Tensor]) -> Tensor:
    """Sum gradients and losses over the ranks and clip; returns the losses and the gradient's norm, still on the device."""
    sum_gradients(trainer.ranks, trainer.parameters, [*sums.values()])
    norm = nn.utils.clip_grad_norm_(trainer.parameters, trainer.recipe.optim.clip_norm or math.inf)
    return torch.stack([*sums.values(), norm])


def check_step(
    trainer: Trainer, step: Step, names: Iterable[str], values: Sequence[float], *, epoch: int, number: int
) -> dict[str, float]:
    """The losses by name, of the values that `clip_step` returned. Raises RunError as `step_gradients`."""
    names = [*names]
    if not all(math.isfinite(value) for value in values):
        error = _not_finite(
            trainer, step, dict(zip([*names, "gradient norm"], values, strict=True)), epoch=epoch, number=number
        )
        raise told_once(trainer.ranks, error)
    return dict(zip(names, values, strict=False))


def make_clips(
    trainer: Trainer, stream: Iterator[Batch], picks: tuple[np.ndarray, ...], rng: np.random.Generator, *, lasting: bool = False
) -> tuple[list[Clips], Tensor | None]:
    """The clips of one pass, augmented: of one batch, or of images and videos with the luck that `classify_and_align` takes.

    `lasting` says that a batch of the stream stays valid when the next one is asked for.
    """
    if len(picks) == 1:
        return [_clips(trainer, next(stream), picks[0], rng)], None
    images = _clips(trainer, next(stream), picks[0], rng, keep=not lasting)  # the next batch may take its memory
    videos = _clips(trainer, next(stream), picks[1], rng)
    luck = torch.from_numpy(rng.random(len(picks[1]))[own_part(trainer.ranks, len(picks[1]))]).to(trainer.device)
    return [images, videos], luck


def pass_losses(trainer: Trainer, speak: Speak, clips: Sequence[Clips], luck: Tensor | None) -> dict[str, Tensor]:
    """The weighted losses of one pass over what `make_clips` made; `speak` is the detector, or answers in its place."""
    recipe, how = trainer.recipe, {"loss": trainer.recipe.loss, "class_weight": trainer.class_weight}
    with autocast(trainer.device, trainer.dtype):
        if luck is None:
            return classify(speak, clips[0], **how)
        return classify_and_align(speak, *clips, align=recipe.align, luck=luck, ranks=trainer.ranks, **how)


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
