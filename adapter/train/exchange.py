"""What the ranks of one training run say to each other: sums, gathered rows, flags, objects, and errors, each of which is told once.

One collective a step over one flat buffer is all that training needs, so the wrapper of torch is not used. Objects and flags go over gloo,
tensors over the back end of their device. With one rank every function is the identity.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2st.adapter.train.ranks import Ranks, part_bounds
from d2st.cache.errors import D2stError, RunError

__all__ = ["alike", "any_of", "everyone", "from_first", "gather_rows", "same_weights", "sum_gradients", "sum_over", "told_once"]


@contextmanager
def alike(ranks: Ranks) -> Iterator[None]:
    """A block that every rank passes and in which none talks to the others: what fails on one fails on all, and is told once.

    Raises:
        D2stError: on the first rank its own error, or that of the first rank that has one.
        SystemExit: on the others.
    """
    error = None
    try:
        yield
    except D2stError as caught:
        error = caught
    if error is not None and ranks.size == 1:
        raise error
    told = everyone(ranks, error and (error.message, error.fix))
    where = next((rank for rank, each in enumerate(told) if each is not None), None)
    if where is not None:
        message, fix = told[where]
        raise told_once(ranks, error or RunError(f"process {where}: {message}", fix=fix))


def told_once(ranks: Ranks, error: D2stError) -> BaseException:
    """What to raise for an error that every rank meets: itself on the first, and a silent end with exit code 1 on the others."""
    return error if ranks.first else SystemExit(1)


def any_of(ranks: Ranks, *, flag: bool) -> bool:
    """Whether the flag of any rank is up."""
    if ranks.size == 1:
        return flag
    value = torch.tensor(int(flag))
    with _talking(ranks):
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def everyone(ranks: Ranks, value: Any) -> list[Any]:
    """The value of every rank, by rank; also a point where all wait for all."""
    if ranks.size == 1:
        return [value]
    values: list[Any] = [None] * ranks.size
    with _talking(ranks):
        dist.all_gather_object(values, value)
    return values


def from_first(ranks: Ranks, value: Any) -> Any:
    """The first rank's value; the others wait for it."""
    return everyone(ranks, value if ranks.first else None)[0]


def sum_over(ranks: Ranks, tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, in one exchange in float32. All ranks end with the same bits."""
    if ranks.size == 1:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    with _talking(ranks):
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def sum_gradients(ranks: Ranks, parameters: Sequence[nn.Parameter], others: Sequence[Tensor]) -> None:
    """Replace each parameter's gradient, and each of the `others`, by its sum over the ranks.

    Ranks need not have used the same parameters: what reads motion has no gradient where a rank's clips are all of one frame. A rank that
    did not use one adds 0; one that no rank used is left without a gradient, as in one process.
    """
    if ranks.size == 1:
        return
    unused = [each for each in parameters if each.grad is None]
    used = torch.tensor([float(each.grad is not None) for each in parameters], device=parameters[0].device)
    for each in unused:
        each.grad = torch.zeros_like(each)
    sum_over(ranks, [*others, used, *(each.grad for each in parameters)])
    if unused:
        for each, count in zip(parameters, used.tolist(), strict=True):
            each.grad = each.grad if count else None


def gather_rows(ranks: Ranks, rows: Tensor, count: int) -> Tensor:
    """All rows (`count`, D) of a batch of which each rank has its `own_part` (B, D), float32.

    Its gradient is for a loss that every rank computes on the same rows and divides by the number of ranks: what the other ranks' losses
    would send back equals what this one's does, so it is multiplied by their number instead of exchanged.
    """
    rows = rows.float()
    if ranks.size == 1:
        return rows
    begins = part_bounds(ranks, count)
    sizes = [end - begin for begin, end in pairwise(begins)]
    padded = rows.detach().new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    with _talking(ranks):
        dist.all_gather(parts, padded)
    own = rows.view_as(rows)
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * ranks.size)
    return torch.cat([own if rank == ranks.rank else parts[rank][:size] for rank, size in enumerate(sizes)])


def same_weights(ranks: Ranks, module: nn.Module) -> None:
    """Give every rank the first one's parameters and buffers."""
    if ranks.size == 1:
        return
    with torch.no_grad(), _talking(ranks):
        for value in module.state_dict().values():
            sent = value.contiguous()
            dist.broadcast(sent, 0)
            value.copy_(sent)


@contextmanager
def _talking(ranks: Ranks) -> Iterator[None]:
    """A rank that ends takes its connections along: say so in words, and once."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        ended = RunError(f"another process of this run ended or stopped answering ({reason})", fix="Its own message says why")
        raise told_once(ranks, ended) from error
