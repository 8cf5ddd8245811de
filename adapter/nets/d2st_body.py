"""The D2ST body: a bottleneck with a spatial and a temporal deformable pathway, exactly as published.

Pei et al., ICCV 2025, arXiv 2312.01431. In the symbols of the code, for tokens x (CLS and patches of every frame):

    z   = GELU(W_down x + b);   z_patches += DWConv_3x3x3(z_patches)
    S   = z + aDSTA_S(LN z),    T = z + aDSTA_T(LN z),    y = GELU((S + T) / 2)
    out = x + GELU(W_up y + b)                            W_up = b = 0 at the start: the body begins as the identity

The decision that shaped it: keep little for the backward pass, and do each costly thing once. S and T are never formed, for (S + T)/2 =
z + (W_oS a_S + W_oT a_T)/2, and W_o/2 is applied to the few values rather than to the many tokens (`mixing`); both pathways read one
normalised tensor and sample it together. x and five tensors of the bottleneck's width are kept (W_down x, the normalised z, two queries, y
before its GELU) instead of the 21 of the formula written out; the rest is computed again, at the price of one product, W_up.

Measured by tests/bench/adapter.py against that formula in eager PyTorch (T = 12, two clips, four bodies, one thread, the least and the most
of four shapes): under bfloat16 autocast 2.4 to 3.3 times as fast in 2.1 to 2.3 times less memory; in float32, where products are most of
the work and there are no fewer of them, 1.02 to 1.24 times as fast in 2.4 times less memory.

Published weights (`ViT_D2ST_Adapter`) load through `published_key`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2st.adapter.nets import plain
from d2st.adapter.nets.depthwise import convolve, convolve_backward
from d2st.adapter.nets.dsta import SPATIAL_KERNEL, SPATIAL_STRIDE, TEMPORAL_KERNEL, TEMPORAL_STRIDE, DeformableAttention, sample
from d2st.adapter.nets.ends import ascend, descend
from d2st.adapter.nets.mixing import mix
from d2st.adapter.nets.trials import to_front

__all__ = ["D2STBody", "published_key"]


class D2STBody(nn.Module):
    """Tokens (B, T, 1+H*W, C), CLS first in each frame, to tokens of the same shape; the identity at the start.

    Args:
        channels: C.
        bottleneck: C', divisible by `heads`; published C/4.
        heads: attention heads and offset groups; published 4.
        dropout: probability, on the update just before it joins the residual stream.
    """

    def __init__(self, channels: int, bottleneck: int, *, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(channels, bottleneck)
        self.position = nn.Conv3d(bottleneck, bottleneck, 3, padding=1, groups=bottleneck)
        self.spatial = DeformableAttention(bottleneck, heads, SPATIAL_KERNEL, SPATIAL_STRIDE)
        self.temporal = DeformableAttention(bottleneck, heads, TEMPORAL_KERNEL, TEMPORAL_STRIDE)
        self.up = nn.Linear(bottleneck, channels)
        self.dropout = dropout
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        narrow, x = descend(x, self.down.weight, self.down.bias, dtype)
        z = place(narrow, self.position.weight, self.position.bias, grid)
        normal = normalise(z, self.spatial.norm.eps)
        pathways = (self.spatial, self.temporal)
        queries = [pathway.ask(normal) for pathway in pathways]
        places = [pathway.places(query, grid) for pathway, query in zip(pathways, queries, strict=True)]
        samples, inside = (t.split([p.shape[1] for p in places], dim=1) for t in sample(normal, torch.cat(places, dim=1), grid))
        y = z.flatten(1, 2)  # (B, T * (1+H*W), C')
        for pathway, query, *seen in zip(pathways, queries, samples, inside, strict=True):
            y = mix(y, query.flatten(1, 2), *pathway.look(*seen))
        dropout = self.dropout if self.training else 0.0
        return ascend(x, y.view_as(z), self.up.weight, self.up.bias, dropout=dropout)


def place(narrow: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """z = GELU(narrow); z_patches += DWConv_3x3x3(z_patches). CLS, a frame's first token, has no place. Keeps only `narrow`."""
    placed = plain.place if plain.exporting() else _Place.apply
    return placed(narrow, weight.to(narrow.dtype), bias.to(narrow.dtype), grid)


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(narrow: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
        z = F.gelu(narrow)
        patches = z[..., 1:, :].unflatten(-2, grid)  # (B, T, H, W, C'), of several networks (K, B, T, H, W, C')
        patches += convolve(patches, weight, bias, (1, 1, 1), (1, 1, 1))
        return z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        narrow, weight, _, ctx.grid = inputs
        ctx.save_for_backward(narrow, weight)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _Place.apply(*to_front(info, in_dims[:3], inputs[:3]), inputs[3]), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        narrow, weight = ctx.saved_tensors
        d_z = gradient.clone()
        d_patches, before, after = (t[..., 1:, :].unflatten(-2, ctx.grid) for t in (d_z, F.gelu(narrow), gradient))
        d_weight, d_bias = convolve_backward(after, before, weight, (1, 1, 1), (1, 1, 1), onto=d_patches)
        return torch.ops.aten.gelu_backward(d_z, narrow), d_weight, d_bias, None


def normalise(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine. Keeps its result, which the queries keep too, rather than its input."""
    if plain.exporting():
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    return _Normalise.apply(x, eps)[0]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # on CUDA it would be float32, twice as large; the sums are anyway
            normal, _, rate = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        return normal, rate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, eps: float) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        return _Normalise.apply(*to_front(info, in_dims[:1], [x]), eps), (0, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        normal, rate = ctx.saved_tensors
        zero, one = torch.zeros_like(rate), torch.ones_like(rate)  # what is normal has mean 0 and deviation 1
        wanted = (True, False, False)
        d_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, normal, normal.shape[-1:], zero, one, None, None, wanted
        )
        return d_x.mul_(rate), None


def published_key(key: str) -> str:
    """Our parameter's name for a name in the published `ViT_D2ST_Adapter` (the part after "Adapter."); shapes are the same."""
    names = {
        "pos_embed.": "position.",
        "s_ln.": "spatial.norm.",
        "t_ln.": "temporal.norm.",
        "s_attn.": "spatial.",
        "t_attn.": "temporal.",
        "conv_offset.0.": "offset_conv.",
        "conv_offset.1.norm.": "offset_norm.",
        "conv_offset.3.": "offset_point.",
        "proj_q.": "query.",
        "proj_k.": "key.",
        "proj_v.": "value.",
        "proj_out.": "out.",
    }
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key
