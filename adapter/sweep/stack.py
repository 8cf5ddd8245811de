"""Several networks of one architecture as one: their parameters side by side, one forward and one backward pass for all.

    W (K, ...)  <- row k is the memory of network k's parameter        y (K, B, ...) = vmap(network)(W, x),  x (B, ...) shared

The decision that shaped it: the networks stay what they are. Each parameter only moves into a row of the stack, and its gradient is a row
of the stack's gradient, so clipping, AdamW, averages and checkpoints are those of a network alone and know nothing of the stack.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from d2st.adapter.nets import Output
from d2st.adapter.sweep.rules import StackRules

__all__ = ["Stack", "same_buffers"]


class Stack:
    """K networks of one architecture and equal buffers. They keep the rows of the stack as their memory when it is gone."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._first = networks[0]
        self._members = [dict(network.named_parameters()) for network in networks]
        self._rows = {
            name: torch.stack([member[name].detach() for member in self._members]).requires_grad_(parameter.requires_grad)
            for name, parameter in self._members[0].items()
        }
        self._trained = [name for name, row in self._rows.items() if row.requires_grad]
        for name, rows in self._rows.items():
            grads = [member[name].grad for member in self._members]
            for member, row in zip(self._members, rows.detach(), strict=True):
                member[name].data = row
            if all(grad is not None for grad in grads):
                self._give(name, torch.stack(grads))

    def __call__(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> list[Output]:
        """What each network says of the same clips."""

        def run(parameters: dict[str, Tensor]) -> Output:
            return functional_call(self._first, parameters, (tokens, cls, mask))

        with StackRules():
            output = torch.vmap(run)(self._rows)
        return [Output(*parts) for parts in zip(*(part.unbind(0) for part in output), strict=True)]

    def speakers(self) -> list[Callable[..., Output]]:
        """One stand-in for each network: the first to be called computes for all, the others, called with the same, get their rows."""
        said: list[list[Output]] = []

        def speaker(place: int) -> Callable[..., Output]:
            calls = 0

            def speak(tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> Output:
                nonlocal calls
                if calls == len(said):
                    said.append(self(tokens, cls, mask))
                calls += 1
                return said[calls - 1][place]

            return speak

        return [speaker(place) for place in range(len(self._members))]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the sum of all networks' losses to theirs: all of them, or none if memory runs out on the way."""
        gradients = torch.autograd.grad(loss, [self._rows[name] for name in self._trained], allow_unused=True)
        found = {name: gradient for name, gradient in zip(self._trained, gradients, strict=True) if gradient is not None}
        # laid out as the parameters: the fused AdamW pairs numbers by their place in memory
        summed = {name: self._before(name, gradient).contiguous() for name, gradient in found.items()}
        for name, gradient in summed.items():
            self._give(name, gradient)

    def _before(self, name: str, gradient: Tensor) -> Tensor:
        """The gradient with what the passes before it gave."""
        before = [member[name].grad for member in self._members]
        return gradient if before[0] is None else gradient + torch.stack(before)

    def _give(self, name: str, gradient: Tensor) -> None:
        for member, row in zip(self._members, gradient, strict=True):
            member[name].grad = row


def same_buffers(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks of one architecture agree in all that is not trained, as those that share a stack must."""
    pairs = zip(one.buffers(), other.buffers(), strict=True)
    return all(a is b or torch.equal(a, b) for a, b in pairs)
