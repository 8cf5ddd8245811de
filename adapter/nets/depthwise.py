"""Depthwise convolution over (frames, rows, columns) of channel-last volumes, as a sum of 2-D convolutions, one a temporal tap.

    y[t] = sum_k conv2d(x[t * s_t + k - p_t], w[k])

The decision that shaped it: never `conv3d`. Its depthwise backward pass is a plain loop on CPUs (kernel 3x3x3 on two clips of 12 frames
of 14x14x192, one thread: 44 ms in bfloat16, 16 ms in float32; here 2 and 3 ms), while channel-last 2-D ones are fast everywhere. The
volume is kept for the backward pass as it came, views included: nothing is copied to be kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2st.adapter.nets import plain
from d2st.adapter.nets.trials import to_front

__all__ = ["Axes", "convolve", "convolve_backward", "depthwise"]

Axes = tuple[int, int, int]  # frames, rows, columns


def depthwise(volume: Tensor, weight: Tensor, bias: Tensor, *, stride: Axes = (1, 1, 1), padding: Axes = (0, 0, 0)) -> Tensor:
    """Convolve each channel of (B, T, H, W, C) with its own kernel (C, 1, k_t, k_h, k_w) and add bias (C,): (B, T', H', W', C).

    Padding is less than half a kernel, rounded up: "same" or none.
    """
    convolved = plain.convolve if plain.exporting() else _Depthwise.apply
    return convolved(volume, weight.to(volume.dtype), bias.to(volume.dtype), stride, padding)


def convolve(volume: Tensor, weight: Tensor, bias: Tensor, stride: Axes, padding: Axes) -> Tensor:
    """`depthwise` without autograd; of several networks too, with one axis more in front of volume, weight and bias."""
    if weight.dim() == 6:
        if _one_by_one(volume):
            return torch.stack([convolve(*own, stride, padding) for own in zip(volume, weight, bias, strict=True)])
        return _unfold(convolve(_fold(volume), weight.flatten(0, 1), bias.flatten(), stride, padding), len(weight))
    total = None
    for tap, read, write in _meetings(volume.shape[1], weight.shape[2], stride[0], padding[0]):
        first = bias if total is None else None
        part = F.conv2d(_images(volume[:, read]), weight[:, :, tap], first, stride[1:], padding[1:], groups=len(weight))
        part = part.permute(0, 2, 3, 1).unflatten(0, (len(volume), -1))  # (B, T', H', W', C)
        if total is None:
            total = part
        else:
            total[:, write] += part
    return total


def convolve_backward(
    gradient: Tensor, volume: Tensor, weight: Tensor, stride: Axes, padding: Axes, *, onto: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias; the volume's is added to `onto`. Of several networks as `convolve`."""
    if weight.dim() == 6:
        if _one_by_one(volume):
            each = zip(gradient.contiguous(), volume, weight, onto, strict=True)
            pairs = [convolve_backward(g, v, w, stride, padding, onto=o) for g, v, w, o in each]
            return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
        folded = _fold(volume)
        added = torch.zeros_like(folded)
        d_weight, d_bias = convolve_backward(_fold(gradient), folded, weight.flatten(0, 1), stride, padding, onto=added)
        onto += _unfold(added, len(weight))
        return d_weight.view_as(weight), d_bias.view(len(weight), -1)
    d_weight = torch.zeros_like(weight)
    for tap, read, write in _meetings(volume.shape[1], weight.shape[2], stride[0], padding[0]):
        out, seen, kernel = _images(gradient[:, write]), _images(volume[:, read]), weight[:, :, tap]
        if max(stride) == 1:
            d_seen, d_tap, _ = _conv2d_backward(out, seen, kernel, stride[1:], padding[1:], (True, True, False))
        else:
            # strided: on CPUs bfloat16 has no fast path (kernel and stride 7 on 14x14: 89 ms), and kernels' gradients have none
            precise = torch.promote_types(weight.dtype, torch.float32)
            out, seen, kernel = (t.to(precise) for t in (out, seen, kernel))
            d_seen, _, _ = _conv2d_backward(out, seen, kernel, stride[1:], padding[1:], (True, False, False))
            windows = seen.permute(0, 2, 3, 1).unfold(1, kernel.shape[2], stride[1]).unfold(2, kernel.shape[3], stride[2])
            met = (
                windows.permute(0, 1, 2, 4, 5, 3) * out.permute(0, 2, 3, 1)[:, :, :, None, None]
            )  # (B * T', H', W', k_h, k_w, C)
            d_tap = met.flatten(0, 2).sum(0).permute(2, 0, 1).unsqueeze(1)  # (C, 1, k_h, k_w)
        onto[:, read] += d_seen.to(onto.dtype).permute(0, 2, 3, 1).unflatten(0, (len(volume), -1))
        d_weight[:, :, tap] = d_tap
    return d_weight, gradient.flatten(0, 3).sum(0)


def _conv2d_backward(
    out: Tensor, seen: Tensor, kernel: Tensor, stride: Any, padding: Any, wanted: tuple[bool, bool, bool]
) -> Any:
    none = (0, 0)
    return torch.ops.aten.convolution_backward(
        out, seen, kernel, None, stride, padding, (1, 1), False, none, len(kernel), wanted
    )


def _meetings(frames: int, taps: int, stride: int, padding: int) -> list[tuple[int, slice, slice]]:
    """For each temporal tap that meets a frame: its number, the frames it reads, and the frames of the result they go to.

    The tap that meets every frame of the result comes first.
    """
    steps = (frames + 2 * padding - taps) // stride + 1
    met = []
    for tap in (padding, *range(padding), *range(padding + 1, taps)):
        first = max(0, -((tap - padding) // stride))  # least t with t * stride + tap - padding >= 0
        last = min(steps - 1, (frames - 1 + padding - tap) // stride)
        if first <= last:
            start = first * stride + tap - padding
            met.append((tap, slice(start, start + (last - first) * stride + 1, stride), slice(first, last + 1)))
    return met


def _images(volume: Tensor) -> Tensor:
    return volume.flatten(0, 1).permute(0, 3, 1, 2)  # (B * T, C, H, W), channels last in memory


def _one_by_one(volume: Tensor) -> bool:
    """On a CPU, several networks take turns: side by side in the channels they would be copied there and back for nothing."""
    return volume.device.type == "cpu"


def _fold(volume: Tensor) -> Tensor:
    """(K, B, T, H, W, C) with the networks side by side in the channels, (B, T, H, W, K * C)."""
    return volume.movedim(0, -2).flatten(-2)


def _unfold(volume: Tensor, count: int) -> Tensor:
    return volume.unflatten(-1, (count, -1)).movedim(-2, 0)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(volume: Tensor, weight: Tensor, bias: Tensor, stride: Axes, padding: Axes) -> Tensor:
        return convolve(volume, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        volume, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(volume, weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _Depthwise.apply(*to_front(info, in_dims[:3], inputs[:3]), *inputs[3:]), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        volume, weight = ctx.saved_tensors
        d_volume = volume.new_zeros(volume.shape)
        d_weight, d_bias = convolve_backward(gradient, volume, weight, ctx.stride, ctx.padding, onto=d_volume)
        return d_volume, d_weight, d_bias, None, None
