"""The adapter "st_adapter": the body of ST-Adapter (Pan et al., NeurIPS 2022, arXiv 2206.13559) in the same side network.

    out = x + W_up DWConv_3x1x1(W_down x + b) + b        patches only; no activation, CLS passes by

The baseline of most later video adapters: time through three neighbouring frames at one place. W_up = b = 0 at the start.
"""

import torch
from torch import Tensor, nn

from d2st.adapter.nets.d2st import SideParams, build_side
from d2st.adapter.nets.depthwise import depthwise
from d2st.adapter.nets.side import SideNetwork
from d2st.adapter.nets.spec import AdapterSpec, Stats

__all__ = ["SPEC", "STAdapterBody"]


class STAdapterBody(nn.Module):
    """Tokens (B, T, 1+H*W, C), CLS first in each frame, to tokens of the same shape; the identity at the start."""

    def __init__(self, channels: int, bottleneck: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(channels, bottleneck)
        self.mix = nn.Conv3d(bottleneck, bottleneck, (3, 1, 1), padding=(1, 0, 0), groups=bottleneck)
        self.up = nn.Linear(bottleneck, channels)
        self.drop = nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = x[:, :, 1:].unflatten(2, grid)  # (B, T, H, W, C)
        mixed = depthwise(self.down(patches), self.mix.weight, self.mix.bias, padding=(1, 0, 0))
        update = self.drop(self.up(mixed)).flatten(2, 3)
        return torch.cat([x[:, :, :1], x[:, :, 1:] + update], dim=2)


def _build(params: SideParams, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats) -> SideNetwork:
    def body(width: int) -> nn.Module:
        return STAdapterBody(width, width, dropout=params.dropout)

    return build_side(params, body, layers=layers, channels=channels, stats=stats)


SPEC = AdapterSpec(summary="depthwise temporal convolutions in the side network", params=SideParams, build=_build)
