"""The adapter "d2st": D2ST bodies (Pei et al., ICCV 2025) in the side network."""

from collections.abc import Callable

from pydantic import Field
from torch import nn

from d2st.adapter.nets.d2st_body import D2STBody
from d2st.adapter.nets.presets import Preset, preset_width
from d2st.adapter.nets.side import SideNetwork
from d2st.adapter.nets.spec import AdapterParams, AdapterSpec, Stats

__all__ = ["SPEC", "SideParams", "build_side"]

HEADS = 4  # published: attention heads and offset groups
DEPTHS = {"tiny": 1, "base": 1, "large": 2}  # bodies a tapped layer


class SideParams(AdapterParams):
    """Size of a side network: one dial, and `width` or `depth` for who wants another point."""

    preset: Preset = Field("base", description="width and depth: C/8 and 1, C/4 and 1, C/2 and 2")
    width: int | None = Field(None, ge=8, multiple_of=8, description="channels of the state; overrides the preset")
    depth: int | None = Field(None, ge=1, le=8, description="bodies a tapped layer; overrides the preset")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability, on each body's update")


def build_side(
    params: SideParams, make_body: Callable[[int], nn.Module], *, layers: tuple[str, ...], channels: int, stats: Stats
) -> SideNetwork:
    """A side network of the size that `params` ask for; `make_body` is called once a body, with its width."""
    width, depth = params.width or preset_width(params.preset, channels), params.depth or DEPTHS[params.preset]
    return SideNetwork(
        layers=layers, channels=channels, stats=stats, width=width, depth=depth, make_body=lambda: make_body(width)
    )


def _build(params: SideParams, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats) -> SideNetwork:
    def body(width: int) -> nn.Module:
        return D2STBody(width, width, heads=HEADS, dropout=params.dropout)

    return build_side(params, body, layers=layers, channels=channels, stats=stats)


SPEC = AdapterSpec(
    summary="disentangled deformable spatio-temporal side network (the default)", params=SideParams, build=_build
)
