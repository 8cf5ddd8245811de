"""The adapter "attentive_probe": one learned multi-head query over the last layer's tokens and CLS, frame by frame.

The usual test of frozen features that don't sit in CLS (Bardes et al., V-JEPA, 2024): everything that one layer knows, no time.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from d2st.adapter.nets.conditioning import ChannelNorm, cls_norm
from d2st.adapter.nets.frames import run_by_length
from d2st.adapter.nets.pooling import FramePool, TokenPool
from d2st.adapter.nets.presets import Preset, preset_width
from d2st.adapter.nets.spec import AdapterParams, AdapterSpec, Stats
from d2st.cache.errors import ConfigError

__all__ = ["SPEC", "AttentiveProbe"]


class AttentiveProbe(nn.Module):
    """An adapter of D = `width`."""

    needs_maps = True

    def __init__(self, *, layer: str, channels: int, stats: Stats, width: int, heads: int) -> None:
        super().__init__()
        self.layer, self.embed_dim = layer, width
        self.condition, self.cls_condition = ChannelNorm(*stats[layer]), cls_norm(stats, layer)
        self.token_pool = TokenPool(channels, width, heads=heads)
        self.frame_pool = FramePool(width)

    @property
    def means(self) -> dict[str, Tensor]:
        """As in `spec.Adapter`."""
        return {self.layer: self.condition.mean, f"{self.layer}/cls": self.cls_condition.mean}

    def forward(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        return run_by_length(self._run, tokens, cls, mask)

    def _run(self, tokens: dict[str, Tensor], cls: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        parts = [self.cls_condition(cls[self.layer]).unsqueeze(2), self.condition(tokens[self.layer]).flatten(2, 3)]
        read = torch.cat(parts, dim=2)  # (B, T, 1+H*W, C)
        frames = self.token_pool(F.layer_norm(read, read.shape[-1:]))  # (B, T, D)
        return self.frame_pool(frames), frames


class _Params(AdapterParams):
    preset: Preset = Field("base", description="width: C/8, C/4, C/2")
    width: int | None = Field(None, ge=8, multiple_of=8, description="channels of the embedding; overrides the preset")
    heads: int = Field(4, ge=1, description="queries, each with its own part of the embedding; divides the width")


def _build(params: _Params, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats) -> AttentiveProbe:
    width = params.width or preset_width(params.preset, channels)
    if width % params.heads:
        raise ConfigError(f"width ({width}) must be a multiple of heads ({params.heads})", fix="Change either of them")
    return AttentiveProbe(layer=layers[-1], channels=channels, stats=stats, width=width, heads=params.heads)


SPEC = AdapterSpec(summary="learned query over the last layer's tokens, no time", params=_Params, build=_build)
