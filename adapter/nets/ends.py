"""The two wide ends of a bottleneck, C to C' and back, that keep only what is narrow for the backward pass.

    descend: narrow = W x + b           ascend: out = x + GELU(W GELU(y) + b)

The decision that shaped it: whatever is C wide lives for a chunk of `CHUNK` numbers only. The gradient of the residual stream passes
through `descend`, so that W's own is added to it chunk by chunk; `ascend` computes its wide middle again from y. On L/14 (C = 1024,
T = 12, four bodies) that takes 7 % off the peak, and what is in a processor's cache is not fetched again.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2st.adapter.nets.plain import exporting
from d2st.adapter.nets.trials import to_front

__all__ = ["ascend", "chunks", "descend"]

CHUNK = {"cpu": 2**19, "cuda": 2**26}  # numbers: what a CPU's second-level cache holds, and enough to fill a GPU


def descend(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Narrow tokens W x + b (..., C') in `dtype`, and x (..., C) itself for the residual; keeps x in `dtype`."""
    if exporting():
        return F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype)), x
    return _Descend.apply(x, weight, bias, dtype)


def ascend(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, *, dropout: float = 0.0) -> Tensor:
    """x + GELU(W GELU(y) + b) of residual x (..., C) and narrow tokens y (..., C'), in x's type; keeps y.

    `dropout`: probability, on what is added to x; its mask is kept too.
    """
    if exporting():
        return x + F.gelu(F.linear(F.gelu(y), weight.to(y.dtype), bias.to(y.dtype))).to(x.dtype)
    scale = torch.empty_like(x, dtype=y.dtype).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
    return _Ascend.apply(x, y, weight, bias, scale)


def chunks(rows: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Slices of so many rows, of so many numbers each, that fit a chunk."""
    step = max(1, CHUNK.get(device.type, CHUNK["cuda"]) // numbers)
    return (slice(start, start + step) for start in range(0, rows, step))


class _Descend(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return _linear(x.to(dtype), weight.to(dtype), bias.to(dtype)), x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, dtype = inputs
        ctx.save_for_backward(x.to(dtype), weight.to(dtype))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        return _Descend.apply(*to_front(info, in_dims[:3], inputs[:3]), inputs[3]), (0, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_narrow: Tensor, d_residual: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = _rows(d_narrow, weight)
        d_weight, d_bias = flat.mT @ _rows(x, weight), flat.sum(-2)
        d_x = torch.empty_like(d_residual, memory_format=torch.contiguous_format)
        target, residual = _rows(d_x, weight), _rows(d_residual, weight)
        for rows in chunks(flat.shape[-2], _wide(x, weight), x.device):
            torch.add(residual[..., rows, :], (flat[..., rows, :] @ weight).to(d_x.dtype), out=target[..., rows, :])
        return d_x, d_weight, d_bias, None


class _Ascend(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None) -> Tensor:
        weight, bias = weight.to(y.dtype), bias.to(y.dtype)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        target, residual, source = (_rows(t, weight) for t in (out, x, y))
        for rows in chunks(source.shape[-2], _wide(x, weight), x.device):
            update = F.gelu(_linear(F.gelu(source[..., rows, :]), weight, bias))
            if scale is not None:
                update *= _rows(scale, weight)[..., rows, :]
            # adding two types at once is 5 times slower
            torch.add(residual[..., rows, :], update.to(x.dtype), out=target[..., rows, :])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, y, weight, bias, scale = inputs
        ctx.save_for_backward(y, weight.to(y.dtype), bias.to(y.dtype), scale)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Tensor, int]:
        return _Ascend.apply(*to_front(info, in_dims, inputs)), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, scale = ctx.saved_tensors
        precise = torch.promote_types(y.dtype, torch.float32)  # sums over chunks are not rounded to bfloat16 each time
        d_y = torch.empty_like(y, memory_format=torch.contiguous_format)
        d_weight, d_bias = torch.zeros_like(weight, dtype=precise), torch.zeros_like(bias, dtype=precise)
        target, source, above = (_rows(t, weight) for t in (d_y, y, gradient))
        for rows in chunks(source.shape[-2], _wide(gradient, weight), y.device):
            inner, d_update = F.gelu(source[..., rows, :]), above[..., rows, :].to(y.dtype)
            if scale is not None:
                d_update = d_update * _rows(scale, weight)[..., rows, :]
            d_wide = torch.ops.aten.gelu_backward(d_update, _linear(inner, weight, bias))
            d_weight += d_wide.mT @ inner
            d_bias += d_wide.sum(-2)
            target[..., rows, :] = torch.ops.aten.gelu_backward(d_wide @ weight, source[..., rows, :])
        return gradient, d_y, d_weight, d_bias, None


def _rows(t: Tensor, weight: Tensor) -> Tensor:
    """(..., C) as rows of one network (R, C), or of K networks (K, R, C) where there are K weights."""
    return t.reshape(*weight.shape[:-2], -1, t.shape[-1])


def _wide(x: Tensor, weight: Tensor) -> int:
    """Numbers in a row, over all networks."""
    return x.shape[-1] * weight.shape[:-2].numel()


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b of one network, or of K of them in one batched product."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    product = torch.baddbmm(bias.unsqueeze(1), _rows(x, weight), weight.mT)  # (K, R, C')
    return product.view(*x.shape[:-1], -1)
