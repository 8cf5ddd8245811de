"""Conditioning of frozen features by the cached statistics of their channels.

CLIP's channels differ in scale by two orders of magnitude and a few are huge everywhere: without conditioning those few decide every
LayerNorm and every product. The statistics come from the store, so training pays no pass for them, and they travel in the checkpoint.
"""

import torch
from torch import Tensor, nn

from d2st.adapter.nets.spec import Stats

__all__ = ["ChannelNorm", "cls_norm"]

STD_FLOOR_RATIO = 1e-3  # of the mean deviation: a channel that never moved must not explode when it does


class ChannelNorm(nn.Module):
    """(x - mean) / std a channel, as one multiply-add; any float dtype in, the buffers' dtype (float32) out.

    Args:
        mean, std: (C,) of one layer, as the store gathered them. Deviations below 1/1000 of their mean count as that.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        mean, std = (torch.as_tensor(t).double() for t in (mean, std))
        if mean.shape != std.shape or mean.dim() != 1 or not (mean.isfinite().all() and std.isfinite().all()):
            raise ValueError(f"channel statistics must be two finite vectors of one length, got {mean.shape} and {std.shape}")
        floor = max(STD_FLOOR_RATIO * std.mean().item(), 1e-6)
        scale = 1 / std.clamp(min=floor)
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", (-mean * scale).float())

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x.to(self.scale.dtype), self.scale)


def cls_norm(stats: Stats, layer: str) -> ChannelNorm:
    """Conditioning of a layer's CLS token, whose channels are distributed unlike those of the patches: by its own statistics, under
    `layer + "/cls"`, as every store has them; by the patches' where features come without."""
    return ChannelNorm(*stats.get(f"{layer}/cls", stats[layer]))
