"""How token maps lie on the disk: as float16, as bfloat16, or as int8 in half of the bytes.

int8 is standardised twice, because CLIP's channels differ in scale by two orders of magnitude and its tokens by one. With the mean and
deviation of each channel, static for the whole store, and one scale s a token (float16):

    z = (x - mean) / std,   s = max over channels of |z| / 127, rounded up,   q = round(z / s),   x' = (q * s) * std + mean

Every channel of a token so has the same error in its own deviations, s / 2 at most. On the demo's maps that is 0.6 % of a token, 2 % of
what a network sees behind its whitening, and at most 0.006 of a trained network's AUC. Quantising the whitened maps instead brings the
2 % down to 0.7 %, but takes a C x C product a token to read, at a twentieth of the speed, and did not change the demo's AUC. At 4 bits a
network that is trained on it loses 0.03 to 0.10. CLS tokens are less than a hundredth of the bytes and stay float16. Measured by
`tests/bench/dtypes.py`, without trained CLIP weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from d2st.cache.seal import PLACEHOLDER, seal

__all__ = [
    "TOKEN_DTYPES",
    "Calibration",
    "as_tensor",
    "calibration_bytes",
    "decode",
    "dequantise",
    "quantise",
    "safe_deviation",
    "stored_arrays",
]

TOKEN_DTYPES = ("float16", "bfloat16", "int8")
Calibration = Mapping[str, tuple[Any, Any]]  # layer -> mean and std (C,), float32, numpy or torch: what an int8 set is read by

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


def decode(maps: np.ndarray, scales: np.ndarray | None = None, calibration: tuple[Any, Any] | None = None) -> Tensor:
    """Stored maps (n,H,W,C) as a float tensor: in their own dtype; int8 as float32, by its `scales` and the layer's `calibration`."""
    if scales is None:
        return as_tensor(maps)
    if calibration is None:
        raise ValueError("int8 maps can't be read without the calibration that they were made with")
    mean, std = (torch.as_tensor(values).cpu() for values in calibration)
    return dequantise(torch.from_numpy(maps), torch.from_numpy(scales), mean, std)


def calibration_bytes(calibration: Calibration) -> bytes:
    """The content of a token set's calibration.safetensors: `<layer>.mean` and `<layer>.std` (C,) float32, sealed."""
    tensors = {}
    for layer, (mean, std) in calibration.items():
        tensors |= {f"{layer}.mean": np.asarray(mean, np.float32), f"{layer}.std": np.asarray(std, np.float32)}
    return seal(save(tensors, metadata={"d2st": PLACEHOLDER}))


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
    bits = scales.view(torch.int16) + short.to(torch.int16)  # the next larger number where it is short: float bits are in order
    scales = bits.view(torch.float16)
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
        part = made[rows].copy_(frames[rows]).mul_(steps[rows])  # a product of int8 and float32 is slower than both
        torch.addcmul(mean[rows], part, std, out=part)
    return out
