"""Several networks at once: what `torch.vmap` over the parameters of K networks of one architecture does at our own autograd functions.

vmap hands each function its tensors with one axis more, that of the networks, wherever it is. The rule here: bring it to the front, and
run the same kernel once. Where every network has weights of its own, the kernels take them as (K, ...) too.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["to_front"]


def to_front(info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors as (K, ...); one that all networks share is repeated, without a copy."""
    return [
        None if t is None else t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]
