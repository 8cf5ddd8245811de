"""Augmentation of token values: what jitter of brightness and contrast is to pixels, on frozen features, and steps between clips.

After FroFA (Bartolomeo et al., CVPR 2024, arXiv 2403.10519), where pointwise changes with random numbers of their own for each channel help
most and geometric ones hurt. FroFA maps each channel to [0, 1] by its range; here the channel's mean and deviation, which the cache
already holds, play that role. Interpolation within a class is after GenD's first version. Time is augmented in `clips.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["interpolate_within", "jitter_channels"]


def jitter_channels(
    tokens: Mapping[str, Tensor],
    cls: Mapping[str, Tensor],
    stats: Mapping[str, tuple[Tensor, Tensor]],
    *,
    brightness: float,
    contrast: float,
    generator: torch.Generator,
    whole: int | None = None,
    first: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """x' = mu + (1 + c) (x - mu) + b sigma, with b ~ N(0, brightness) and c ~ U(-contrast, contrast) by clip, layer and channel.

    One draw serves all frames and cells of a clip, CLS included: nothing new flickers in time.

    Args:
        tokens: layer -> (B, T, H, W, C); may be empty. cls: layer -> (B, T, C).
        stats: mean (C,) and standard deviation (C,) of each layer's maps (`layer`) and of its CLS tokens (`layer + "/cls"`).
        generator: on the CPU, so that a seed means the same on every device.
        whole, first: the clips are numbers `first` .. `first` + B - 1 of a batch of `whole`, for all of which random numbers are drawn.
    """
    new_tokens, new_cls = {}, {}
    for layer, vectors in cls.items():
        draws = torch.empty(2, whole or len(vectors), vectors.shape[-1])
        draws[0].normal_(generator=generator).mul_(brightness)
        draws[1].uniform_(-contrast, contrast, generator=generator)
        shift, gain = draws[:, first : first + len(vectors)].to(vectors.device)  # (B, C) each
        new_cls[layer] = _affine(vectors, stats[f"{layer}/cls"], shift, gain)
        if layer in tokens:
            new_tokens[layer] = _affine(tokens[layer], stats[layer], shift, gain)
    return new_tokens, new_cls


def interpolate_within(
    tokens: Mapping[str, Tensor],
    cls: Mapping[str, Tensor],
    label: Tensor,
    mask: Tensor,
    *,
    probability: float,
    generator: torch.Generator,
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """x_i' = (1 - t) x_i + t x_j, with t ~ U(0, 1/2) and j another clip of i's label, for each clip with `probability`.

    After Yermakov et al. (arXiv 2503.19683), who interpolate pooled, normalised features of one class along the sphere. Maps lie on no
    sphere: the norms of their vectors say something, and the H W + 1 vectors of each layer would each turn by an angle of their own. A
    straight step is the same one in all of them, and it commutes with the channels' standardisation that comes next. At t < 1/2 a clip
    stays nearer to itself than to the other. One t and j serve all layers, frames and cells, CLS included.

    Where either clip has no frame, a clip keeps its own; a clip without a partner stays as it is.

    Args:
        tokens: layer -> (B, T, H, W, C); may be empty. cls: layer -> (B, T, C). label: (B,). mask: (B, T), True where a frame is.
        generator: on the CPU, so that a seed means the same on every device.

    Returns:
        New maps of the same dtype; those that were given when `probability` is 0.
    """
    if probability == 0:
        return tokens, cls
    count, frames = mask.shape
    luck = torch.rand(count, count, generator=generator)  # the luckiest of the possible partners is taken
    step = torch.rand(count, generator=generator) / 2 * (torch.rand(count, generator=generator) < probability)
    luck, step = luck.to(mask.device), step.to(mask.device)
    own = torch.arange(count, device=mask.device)
    possible = (label[:, None] == label) & (own[:, None] != own)  # (B, B)
    partner = luck.masked_fill(~possible, -1.0).argmax(1)  # (B,)
    moved = mask & mask[partner] & (possible.any(1) & (step > 0))[:, None]  # (B, T)
    # a frame that stays is its own partner: whatever padding holds goes nowhere
    place = torch.where(moved, partner[:, None], own[:, None]) * frames + torch.arange(frames, device=mask.device)
    step = torch.where(moved, step[:, None], 0.0)  # (B, T)

    def walk(values: Tensor) -> Tensor:
        other = values.flatten(0, 1)[place.flatten()].view_as(values)  # (B, T, ..., C)
        size = step.to(values.dtype).view(count, frames, *(1 for _ in values.shape[2:]))
        return torch.lerp(values, other, size)

    return {layer: walk(value) for layer, value in tokens.items()}, {layer: walk(value) for layer, value in cls.items()}


def _affine(values: Tensor, stats: tuple[Tensor, Tensor], shift: Tensor, gain: Tensor) -> Tensor:
    mean, deviation = (value.to(values.device, torch.float32) for value in stats)
    offset = (shift * deviation - gain * mean).to(values.dtype)  # (B, C)
    scale = (1 + gain).to(values.dtype)
    places = (slice(None), *(None,) * (values.ndim - 2))  # (B, C) -> (B, 1, ..., 1, C)
    with torch.autocast(values.device.type, enabled=False):  # CUDA's autocast knows no float16 beside bfloat16
        return torch.addcmul(offset[places], values, scale[places])
