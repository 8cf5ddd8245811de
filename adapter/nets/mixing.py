"""Softmax attention of many tokens over few keys, added to the tokens: y = z + softmax(q k^T) v.

The decision that shaped it: with some 48 keys a head the matrix of weights is no larger than the queries, so it is written out, used and
thrown away, chunk of clips by chunk of clips, and the backward pass makes it again from the queries. A pathway of two clips of 12 frames
of B/16 in bfloat16 takes 2 + 4 ms forward and backward on one thread; `scaled_dot_product_attention` takes 3 + 8, and W_o, which here is
in v, 2 more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2st.adapter.nets import plain
from d2st.adapter.nets.ends import chunks
from d2st.adapter.nets.trials import to_front

__all__ = ["mix"]


def mix(z: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """z plus what each token finds; keeps query, key and value.

    Args:
        z, query: (B, N, C).
        key: (B, heads, n, C/heads), already divided by the root of C/heads.
        value: of each head's keys, as wide as the token they are added to, (B, heads * n, C).
    """
    mixed = plain.mix if plain.exporting() else _Mix.apply
    return mixed(z, *(t.to(z.dtype) for t in (query, key, value)))


def _split(query: Tensor, heads: int) -> Tensor:
    return query.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, d)


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q k^T) of queries (B, heads, N, d) and keys (B, heads, n, d), as (B, N, heads, n)."""
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = torch.softmax(query @ key.mT, dim=-1, dtype=precise).transpose(1, 2)
    return weights.to(query.dtype, memory_format=torch.contiguous_format, copy=True)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        y = torch.empty_like(z)
        for clips in chunks(len(z), query.shape[1] * value.shape[1], z.device):
            weights = _weights(_split(query[clips], key.shape[1]), key[clips])
            torch.baddbmm(z[clips], weights.flatten(2), value[clips], out=y[clips])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        folded = (t.flatten(0, 1) for t in to_front(info, in_dims, tensors))  # (K * B, ...)
        return _Mix.apply(*folded).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors
        heads = key.shape[1]
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for clips in chunks(len(query), query.shape[1] * value.shape[1], query.device):
            above, q = gradient[clips], _split(query[clips], heads).contiguous()
            weights = _weights(q, key[clips])  # (B, N, heads, n)
            d_value[clips] = weights.flatten(2).mT @ above
            d_weights = (above @ value[clips].mT).view_as(weights)
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, query.dtype)
            d_scores = d_scores.transpose(1, 2).contiguous()  # (B, heads, N, n)
            d_key[clips] = d_scores.mT @ q
            _split(d_query[clips], heads).copy_(d_scores @ key[clips])
        return gradient, d_query, d_key, d_value
