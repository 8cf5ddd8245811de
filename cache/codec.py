"""How token maps lie on the disk: as float16, as bfloat16, or as int8 in half of the bytes.

int8 is standardised twice, because CLIP's channels differ in scale by two orders of magnitude and its tokens by one. With the mean and
deviation of each channel, static for the whole store, and one scale s a token (float16):

    z = (x - mean) / std,   s = max over channels of |z| / 127, rounded up,   q = round(z / s),   x' = (q * s) * std + mean

Every channel of a token so has the same error in its own deviations: half a step, s / 2. What reads the maps standardises channels too
and is hurt by nothing else. CLS tokens are a hundredth of the bytes and stay float16.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["CALIBRATION", "TOKEN_DTYPES", "as_tensor", "dequantise", "quantise", "safe_deviation", "stored_arrays"]

TOKEN_DTYPES = ("float16", "bfloat16", "int8")
CALIBRATION = "calibration.safetensors"  # in the tokens level: <layer>.mean and <layer>.std (C,) float32, of an int8 set alone

_LEVELS = 127  # -128 is not used: the range is symmetric
_FLOAT16_MAX = 65504.0
_BLOCK_VALUES = 2**18  # on a CPU, so that the passes stay in its cache
_DEVIATION_FLOOR = 0.01  # of the median channel's: one that stood still would otherwise take a token's range when it moves


def stored_arrays(dtype: str, grid: Sequence[int], channels: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """What a layer of token maps is stored as: kind -> (shape of one frame, numpy dtype name).

    Args:
        dtype: one of `TOKEN_DTYPES`. bfloat16, which numpy and Zarr lack, is stored as its bits in uint16.
        grid: (H, W) of the maps.
        channels: C.
    """
    height, width = grid
    if dtype == "int8":
        maps = {"maps": ((height, width, channels), "int8"), "scales": ((height, width), "float16")}
        return {**maps, "cls": ((channels,), "float16")}
    name = {"float16": "float16", "bfloat16": "uint16"}[dtype]
    return {"maps": ((height, width, channels), name), "cls": ((channels,), name)}


def as_tensor(stored: np.ndarray) -> Tensor:
    """A stored array as a tensor on its memory; uint16 holds the bits of bfloat16."""
    tensor = torch.from_numpy(stored)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def safe_deviation(std: Tensor) -> Tensor:
    """Deviations (C,) fit for `quantise`: none below 1/100 of the median one, and 1 where nothing moves at all."""
    floor = _DEVIATION_FLOOR * std.median()
    return std.clamp(min=floor) if floor > 0 else torch.where(std > 0, std, 1.0)


def quantise(values: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Finite values (..., C), any float dtype, as int8 (..., C) and a float16 scale a token (...), on their device.

    The scale is rounded up, so that no value is cut off; only beyond 8.3 million deviations, where float16 ends, it is. A channel whose
    `std` (C,) is 0 always comes back as its `mean` (C,).
    """
    inverse = torch.where(std > 0, 1 / std, 0.0)
    z = (values.float() - mean).mul_(inverse)  # (..., C)
    wanted = torch.maximum(z.amax(dim=-1), -z.amin(dim=-1)).div_(_LEVELS).clamp_(max=_FLOAT16_MAX)  # (...)
    scales = wanted.half()
    short = scales.float() < wanted
    scales = (scales.view(torch.int16) + short.to(torch.int16)).view(
        torch.float16
    )  # the next larger one: float bits are in order
    steps = scales.float()
    inverse = torch.where(steps > 0, 1 / steps, 0.0).unsqueeze(-1)
    return z.mul_(inverse).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8), scales


def dequantise(
    q: Tensor, scales: Tensor, mean: Tensor, std: Tensor, *, keep: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """(q * scale) * std + mean in float32, for q (..., H, W, C) and scales (..., H, W), on their device.

    Args:
        mean, std: (C,) float32, as given to `quantise`.
        keep: (...) bool, such as (B, T): False for padding frames, which become zeros whatever `q` and `scales` hold there.
        out: contiguous float32 of q's shape, to be filled and returned. Reuse one on a CPU: 10 GB/s of float16 maps in place of 2.
    """
    out = torch.empty(q.shape, device=q.device) if out is None else out
    steps = scales.float().flatten(0, -3).unsqueeze(-1)  # (N, H, W, 1)
    mean = mean.expand(len(steps), 1, 1, -1)  # (N, 1, 1, C)
    if keep is not None:
        kept = keep.flatten()[:, None, None, None]
        steps, mean = steps.where(kept, 0.0), mean.where(kept, 0.0)  # zeroing costs no pass over the maps
    frames, made = q.flatten(0, -4), out.view(-1, *q.shape[-3:])
    step = len(steps) if q.is_cuda else max(1, _BLOCK_VALUES // max(1, q.shape[-3:].numel()))
    for rows in (slice(begin, begin + step) for begin in range(0, len(steps), max(1, step))):
        part = torch.mul(frames[rows], steps[rows], out=made[rows])
        torch.addcmul(mean[rows], part, std, out=part)
    return out
