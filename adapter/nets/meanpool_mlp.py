"""The adapter "meanpool_mlp": each layer's tokens averaged over the frame, joined with its CLS, through a two-layer perceptron.

Sees all tapped layers but neither place nor time: what it lacks against "d2st" is what structure is worth.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from d2st.adapter.nets.conditioning import ChannelNorm, cls_norm
from d2st.adapter.nets.frames import run_by_length
from d2st.adapter.nets.norm import layer_norm
from d2st.adapter.nets.presets import Preset
from d2st.adapter.nets.spec import AdapterParams, AdapterSpec, Stats

__all__ = ["SPEC", "MeanPoolMLP"]


class MeanPoolMLP(nn.Module):
    """An adapter of D = `width`. Frames are averaged after the perceptron."""

    needs_maps = True

    def __init__(self, *, layers: tuple[str, ...], channels: int, stats: Stats, width: int, dropout: float) -> None:
        super().__init__()
        self.layers, self.embed_dim = layers, width
        self.conditions = nn.ModuleList(ChannelNorm(*stats[layer]) for layer in layers)
        self.cls_conditions = nn.ModuleList(cls_norm(stats, layer) for layer in layers)
        self.mlp = nn.Sequential(
            nn.LayerNorm(2 * len(layers) * channels),
            nn.Linear(2 * len(layers) * channels, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )

    @property
    def means(self) -> dict[str, Tensor]:
        """As in `spec.Adapter`."""
        maps = {layer: norm.mean for layer, norm in zip(self.layers, self.conditions, strict=True)}
        return maps | {f"{layer}/cls": norm.mean for layer, norm in zip(self.layers, self.cls_conditions, strict=True)}

    def forward(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        return run_by_length(self._run, tokens, cls, mask)

    def _run(self, tokens: dict[str, Tensor], cls: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        parts = []
        for layer, condition, cls_condition in zip(self.layers, self.conditions, self.cls_conditions, strict=True):
            mean = tokens[layer].mean(dim=(2, 3), dtype=condition.scale.dtype)  # standardising commutes with the mean
            parts += [condition(mean), cls_condition(cls[layer])]  # each (B, T, C)
        *hidden, norm = self.mlp
        frames = layer_norm(nn.Sequential(*hidden)(torch.cat(parts, dim=-1)), norm.weight, norm.bias)  # (B, T, D)
        return frames.mean(dim=1), frames


WIDTHS = {"tiny": 128, "base": 256, "large": 512}


class _Params(AdapterParams):
    preset: Preset = Field("base", description="width: 128, 256, 512")
    width: int | None = Field(None, ge=8, description="channels of the hidden layer and the embedding; overrides the preset")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability, on the hidden layer")


def _build(params: _Params, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats) -> MeanPoolMLP:
    width = params.width or WIDTHS[params.preset]
    return MeanPoolMLP(layers=layers, channels=channels, stats=stats, width=width, dropout=params.dropout)


SPEC = AdapterSpec(
    summary="mean tokens and CLS of every tapped layer through an MLP, no place, no time", params=_Params, build=_build
)
