"""The adapter "linear_probe": the last layer's CLS, standardised, averaged over frames. Nothing is learned but the head.

The floor that every other adapter must beat.
"""

import torch
from torch import Tensor, nn

from d2st.adapter.nets.conditioning import cls_norm
from d2st.adapter.nets.frames import run_by_length
from d2st.adapter.nets.spec import AdapterParams, AdapterSpec, Stats

__all__ = ["SPEC", "LinearProbe"]


class LinearProbe(nn.Module):
    """An adapter of D = C that reads CLS alone."""

    needs_maps = False

    def __init__(self, *, layer: str, channels: int, stats: Stats) -> None:
        super().__init__()
        self.layer, self.embed_dim = layer, channels
        self.condition = cls_norm(stats, layer)

    @property
    def means(self) -> dict[str, Tensor]:
        """As in `spec.Adapter`."""
        return {f"{self.layer}/cls": self.condition.mean}

    def forward(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        return run_by_length(self._run, {}, cls, mask)

    def _run(self, tokens: dict[str, Tensor], cls: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        frames = self.condition(cls[self.layer])  # (B, T, C)
        return torch.mean(frames, dim=1), frames


def _build(
    params: AdapterParams, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats
) -> LinearProbe:
    return LinearProbe(layer=layers[-1], channels=channels, stats=stats)


SPEC = AdapterSpec(summary="mean CLS of the last tapped layer; only the head learns", params=AdapterParams, build=_build)
