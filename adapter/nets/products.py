"""Products of cached maps, the widest thing that training touches: standardised on the way, and nothing of it kept.

    y_i = ((x - mean) / std) W_i^T + b_i        x as it was cached, C channels; the W_i narrow

The decision that shaped it: x is centred in float32, and only the centred values are rounded to the dtype of the product. Rounding then
costs 0.1 % of a channel's own deviation, however far its mean lies from zero; rounding x itself, or folding (x - mean) / std into W, would
cost 0.1 % of the mean. A few thousand rows are done at a time, so the standardised copy stays in the processor's cache, and the backward
pass makes it again: what is kept for it is x alone, which the loader holds anyway.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from d2st.adapter.nets import plain
from d2st.adapter.nets.trials import to_front

__all__ = ["product_dtype_of", "standardised_products"]

CPU_ROWS, DEVICE_ROWS = 2048, 1 << 17  # 3 MiB of B/16 in bfloat16; on a GPU few large kernels count more


def product_dtype_of(x: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype in which autocast would multiply on x's device, or the weight's own without autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def standardised_products(
    x: Tensor, scale: Tensor, shift: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """(x * scale + shift) W_i^T + b_i for each i.

    Args:
        x: (..., C), any float dtype. Kept, not copied, until the backward pass: it must not change before.
        scale, shift: (C,), no gradient.
        weights, biases: (N_i, C) and (N_i,) or None, all of the dtype that the products shall have; sums are float32 or wider.

    Returns:
        (..., N_i) each.
    """
    if plain.exporting():
        return plain.standardised_products(x, scale, shift, weights, biases)
    outs = _StandardisedProducts.apply(x.flatten(0, -2), scale, shift, len(weights), *weights, *biases)
    return tuple(out.unflatten(0, x.shape[:-1]) for out in outs)


class _StandardisedProducts(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor, count: int, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = parameters[:count], parameters[count:]
        outs = tuple(
            x.new_empty(*w.shape[:-2], len(x), w.shape[-2], dtype=w.dtype) for w in weights
        )  # (N, N_i), or (K, N, N_i)
        for rows, part in _standardised(x, scale, shift, weights[0].dtype):
            for out, weight, bias in _each(outs, weights, biases):
                if bias is None:
                    torch.mm(part, weight.t(), out=out[rows])
                else:
                    torch.addmm(bias, part, weight.t(), out=out[rows])
        return outs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, scale, shift, count, *parameters = inputs
        ctx.save_for_backward(x, scale, shift, *parameters[:count])
        ctx.biased = [bias is not None for bias in parameters[count:]]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        if any(dim is not None for dim in in_dims[:3]):
            raise NotImplementedError("networks side by side read the same features, standardised alike")
        outs = _StandardisedProducts.apply(*inputs[:4], *to_front(info, in_dims[4:], inputs[4:]))
        return outs, (0,) * len(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, *weights = ctx.saved_tensors
        exact = scale.dtype  # of the sums over parts
        sums = [torch.zeros_like(weight, dtype=exact) for weight in weights]
        for rows, part in _standardised(x, scale, shift, weights[0].dtype):
            for total, grad in _each(sums, grads):
                total += grad[rows].t() @ part
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (sum(grad @ weight for grad, weight in _each(grads, weights)) * scale).to(x.dtype)
        to_biases = (grad.sum(-2) if biased else None for grad, biased in zip(grads, ctx.biased, strict=True))
        to_weights = (total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True))
        return to_x, None, None, None, *to_weights, *to_biases


def _each(*groups: Sequence[Tensor | None]) -> Iterator[tuple[Tensor | None, ...]]:
    """The i-th of every group, network by network where the first has an axis of them: all share the part of x in the cache."""
    for together in zip(*groups, strict=True):
        if together[0].dim() == 2:
            yield together
        else:
            yield from zip(*(repeat(None) if each is None else each for each in together), strict=False)


def _standardised(x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows, and x * scale + shift of each, (rows, C) in `dtype`."""
    step = min(len(x), CPU_ROWS if x.device.type == "cpu" else DEVICE_ROWS)
    exact = x.new_empty(
        step, x.shape[1], dtype=scale.dtype
    )  # used again for every part: fresh memory costs more than the arithmetic
    rounded = exact if dtype == exact.dtype else exact.new_empty(exact.shape, dtype=dtype)
    for begin in range(0, len(x), step):
        rows = slice(begin, begin + step)
        count = len(x[rows])
        torch.addcmul(shift, exact[:count].copy_(x[rows]), scale, out=exact[:count])
        yield rows, exact[:count] if rounded is exact else rounded[:count].copy_(exact[:count])
