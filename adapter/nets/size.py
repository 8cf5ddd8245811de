"""How big a network is: trainable parameters, and the arithmetic of one clip."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["clip_flops", "count_parameters"]


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def clip_flops(module: nn.Module, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], frames: int) -> int:
    """Floating-point operations (two a multiply-add) of one forward pass of an adapter or detector on one clip of T = `frames`.

    Counts products, convolutions and attention, and leaves out elementwise work. Runs the module once, on its own device, on zeros.
    """
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    tokens = {layer: torch.zeros(1, frames, *grid, channels, device=device) for layer in layers}
    cls = {layer: torch.zeros(1, frames, channels, device=device) for layer in layers}
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(tokens, cls, torch.ones(1, frames, dtype=torch.bool, device=device))
    finally:
        module.train(training)
    return counter.get_total_flops()
