"""Two operators under vmap: its own rules split them up, and what autocast does to the whole is lost on the parts.

A linear map with a bias would be a product in bfloat16 and a sum in float32, whose result doubles all that follows; a LayerNorm likewise.
Here both give the dtype that they give to one network alone. A map whose input all networks share is one product with all weights side by
side: the input is read once and never repeated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from d2st.adapter.nets.norm import affine
from d2st.adapter.nets.products import product_dtype_of
from d2st.adapter.nets.trials import to_front

__all__ = ["StackRules"]


class StackRules(TorchFunctionMode):
    """Inside of it `F.linear` and `F.layer_norm` are ours."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = {F.linear: _linear, F.layer_norm: _layer_norm}.get(function, function)
        return ours(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dtype = product_dtype_of(x, weight)
    return _Linear.apply(*(None if t is None else t.to(dtype) for t in (x, weight, bias)))


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    normal = F.layer_norm(x, shape, None, None, eps)
    return normal if weight is None else affine(normal, weight, bias)


class _Linear(torch.autograd.Function):
    """W x + b for x (..., C): of one network, W (N, C); of K, x (K, ..., C) and W (K, N, C)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.dim() == 2:
            return F.linear(x, weight, bias)
        rows = _rows(x, weight)
        out = rows @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)  # (K, R, N)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.biased = inputs[2] is not None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Tensor, int]:
        weight, bias = to_front(info, in_dims[1:], inputs[1:])
        if in_dims[0] is None:
            out = _Linear.apply(inputs[0], weight.flatten(0, 1), None if bias is None else bias.flatten())
            return out.unflatten(-1, (info.batch_size, -1)), out.dim() - 1  # (..., K, N)
        return _Linear.apply(*to_front(info, in_dims[:1], inputs[:1]), weight, bias), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = _rows(gradient, weight)
        d_x = (flat @ weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return d_x, flat.mT @ _rows(x, weight), flat.sum(-2) if ctx.biased else None


def _rows(t: Tensor, weight: Tensor) -> Tensor:
    """(R, C), or (K, R, C) of K networks."""
    return t.reshape(*weight.shape[:-2], -1, t.shape[-1])
