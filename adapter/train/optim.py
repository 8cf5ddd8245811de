"""AdamW with parameter groups, cosine decay with warm-up, and averaged weights.

The learning rate is a plain function of the step number, so there is no scheduler whose state could go wrong on a resume.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Ema", "cosine_factor", "make_optimizer", "set_rate", "unmatched_rates"]


def make_optimizer(model: nn.Module, *, lr: float, weight_decay: float, rates: Mapping[str, float]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) over the parameters that require a gradient.

    Args:
        weight_decay: on matrices and kernels. Parameters of one axis (norms, biases, gates, scales) have none.
        rates: part of a parameter's name -> factor of its learning rate; the longest match counts. Each group keeps its factor as `factor`.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matching = max((part for part in rates if part in name), key=len, default=None)
            factor = 1.0 if matching is None else rates[matching]
            groups.setdefault((factor, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    made = [{"params": params, "weight_decay": decay, "factor": factor} for (factor, decay), params in groups.items()]
    return torch.optim.AdamW(made, lr=lr, fused=True)


def unmatched_rates(model: nn.Module, rates: Mapping[str, float]) -> list[str]:
    """The keys of `rates` that no parameter's name contains."""
    names = [name for name, _ in model.named_parameters()]
    return [part for part in rates if not any(part in name for name in names)]


def cosine_factor(step: int, *, steps: int, warmup_ratio: float) -> float:
    """Factor of the peak rate at `step` of 0 .. steps-1: climbs in a straight line to 1, then a half cosine down towards 0
    (Loshchilov and Hutter, SGDR, ICLR 2017). No step has a rate of 0."""
    warmup = round(steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


class Ema:
    """Exponential moving average of the parameters of one model: a_n = d_n a_(n-1) + (1 - d_n) w_n, d_n = min(decay, (1 + n) / (10 + n)).

    The rising d_n lets short runs forget their random start. Buffers do not change in training and are not averaged.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        self.averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Take in the model's weights after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self._parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages inside the block and its own weights again after it."""
        parameters = self._parameters
        with torch.no_grad():
            own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            for name, parameter in parameters.items():
                parameter.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(own[name])
