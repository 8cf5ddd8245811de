"""Weighted sums of rows of a table, `embedding_bag` with a rule for several networks at once.

    y_n = sum_j w_nj table[rows_nj]

PyTorch's own has no rule for `torch.vmap`. Here the tables of K networks become one, and their bags one list.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2st.adapter.nets.trials import to_front

__all__ = ["bag_sums"]

_SUM = 0  # how ATen counts its modes


def bag_sums(table: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Sums (N, C) over the rows (N, J) int64 of a table (R, C), weighted by (N, J) of the table's dtype."""
    return _BagSums.apply(table, rows, weight)[0]


class _BagSums(torch.autograd.Function):
    @staticmethod
    def forward(table: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.aten._embedding_bag(
            table, rows.flatten(), _offsets(rows), mode=_SUM, per_sample_weights=weight.flatten()
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        table, rows, weight = to_front(info, in_dims, inputs)
        first = torch.arange(info.batch_size, device=rows.device)[:, None, None] * table.shape[1]
        sums, *rest = _BagSums.apply(table.flatten(0, 1), (rows + first).flatten(0, 1), weight.flatten(0, 1))
        return (sums.unflatten(0, (info.batch_size, -1)), *rest), (0, None, None, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        table, rows, weight, *about = ctx.saved_tensors
        flat, offsets, gradient = rows.flatten(), _offsets(rows), gradient.contiguous()
        d_table = torch.ops.aten._embedding_bag_backward(
            gradient, flat, offsets, *about, len(table), False, _SUM, False, weight.flatten()
        )
        d_weight = torch.ops.aten._embedding_bag_per_sample_weights_backward(gradient, table, flat, offsets, about[0], _SUM)
        return d_table, None, d_weight.view_as(weight)


def _offsets(rows: Tensor) -> Tensor:
    return torch.arange(0, rows.numel(), rows.shape[1], device=rows.device)
