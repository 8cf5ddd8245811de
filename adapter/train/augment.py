"""Augmentation of token values: what jitter of brightness and contrast is to pixels, on frozen features.

After FroFA (Bartolomeo et al., CVPR 2024, arXiv 2403.10519), where pointwise changes with random numbers of their own for each channel help
most and geometric ones hurt. FroFA maps each channel to [0, 1] by its range; here the channel's mean and deviation, which the cache
already holds, play that role. Time is augmented in `clips.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["jitter_channels"]


def jitter_channels(
    tokens: Mapping[str, Tensor],
    cls: Mapping[str, Tensor],
    stats: Mapping[str, tuple[Tensor, Tensor]],
    *,
    brightness: float,
    contrast: float,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """x' = mu + (1 + c) (x - mu) + b sigma, with b ~ N(0, brightness) and c ~ U(-contrast, contrast) by clip, layer and channel.

    One draw serves all frames and cells of a clip, CLS included: nothing new flickers in time.

    Args:
        tokens: layer -> (B, T, H, W, C); may be empty. cls: layer -> (B, T, C).
        stats: mean (C,) and standard deviation (C,) of each layer's maps (`layer`) and of its CLS tokens (`layer + "/cls"`).
        generator: on the CPU, so that a seed means the same on every device.
    """
    new_tokens, new_cls = {}, {}
    for layer, vectors in cls.items():
        draws = torch.empty(2, len(vectors), vectors.shape[-1])
        draws[0].normal_(generator=generator).mul_(brightness)
        draws[1].uniform_(-contrast, contrast, generator=generator)
        shift, gain = draws.to(vectors.device)  # (B, C) each
        new_cls[layer] = _affine(vectors, stats[f"{layer}/cls"], shift, gain)
        if layer in tokens:
            new_tokens[layer] = _affine(tokens[layer], stats[layer], shift, gain)
    return new_tokens, new_cls


def _affine(values: Tensor, stats: tuple[Tensor, Tensor], shift: Tensor, gain: Tensor) -> Tensor:
    mean, deviation = (value.to(values.device, torch.float32) for value in stats)
    offset = (shift * deviation - gain * mean).to(values.dtype)  # (B, C)
    scale = (1 + gain).to(values.dtype)
    places = (slice(None), *(None,) * (values.ndim - 2))  # (B, C) -> (B, 1, ..., 1, C)
    with torch.autocast(values.device.type, enabled=False):  # CUDA's autocast knows no float16 beside bfloat16
        return torch.addcmul(offset[places], values, scale[places])
