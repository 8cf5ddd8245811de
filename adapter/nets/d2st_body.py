"""The D2ST body: a bottleneck with a spatial and a temporal deformable pathway, exactly as published.

Pei et al., ICCV 2025, arXiv 2312.01431. In the symbols of the code, for tokens x (CLS and patches of every frame):

    z   = GELU(W_down x + b);   z_patches += DWConv_3x3x3(z_patches)
    S   = z + aDSTA_S(LN z),    T = z + aDSTA_T(LN z),    y = GELU((S + T) / 2)
    out = x + GELU(W_up y + b)                            W_up = b = 0 at the start: the body begins as the identity

The decision that shaped it: keep little for the backward pass. S and T are never formed, for (S + T)/2 = z + (W_oS a_S + W_oT a_T)/2;
both pathways read one normalised tensor and their queries come from one product; the two wide ends are computed again (`again`).
That is 8.5 bottleneck-wide tensors a body instead of the 21 of the formula written out, for one product more.

Published weights (`ViT_D2ST_Adapter`) load through `published_key`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2st.adapter.nets.dsta import SPATIAL_KERNEL, SPATIAL_STRIDE, TEMPORAL_KERNEL, TEMPORAL_STRIDE, DeformableAttention

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
        z = again(self._place, self.down(x), grid)
        normal = F.layer_norm(z, z.shape[-1:], eps=self.spatial.norm.eps)
        pathways = (self.spatial, self.temporal)
        weights, biases = zip(*(pathway.query_map() for pathway in pathways), strict=True)
        queries = F.linear(normal, torch.cat(weights), torch.cat(biases)).chunk(2, dim=-1)  # each (B, T, 1+H*W, C')
        for pathway, query in zip(pathways, queries, strict=True):
            mixed = pathway.attend(query, normal, grid)
            z = z + F.linear(mixed, pathway.out.weight / 2, pathway.out.bias / 2)
        return x + F.dropout(again(self._raise, z), self.dropout, self.training)

    def _place(self, narrow: Tensor, grid: tuple[int, int]) -> Tensor:
        z = F.gelu(narrow)
        patches = depthwise(z[:, :, 1:].unflatten(2, grid), self.position)  # (B, T, H, W, C')
        return z + F.pad(patches.flatten(2, 3), (0, 0, 1, 0))  # CLS has no place

    def _raise(self, z: Tensor) -> Tensor:
        return F.gelu(self.up(F.gelu(z)))


def again(run: Callable[..., Tensor], *args: Any) -> Tensor:
    """Run a cheap, wide step and keep only its input: the backward pass computes it again."""
    if not torch.is_grad_enabled():
        return run(*args)
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


def depthwise(volume: Tensor, conv: nn.Conv3d) -> Tensor:
    """A same-padded depthwise convolution of a channel-last volume (B, T, H, W, C); a single frame meets the middle taps only."""
    if volume.shape[1] == 1:
        middle = conv.weight[:, :, conv.kernel_size[0] // 2]
        flat = volume[:, 0].permute(0, 3, 1, 2)  # (B, C, H, W)
        flat = F.conv2d(flat, middle, conv.bias, padding=conv.padding[1:], groups=conv.groups)
        return flat.permute(0, 2, 3, 1).unsqueeze(1)
    return conv(volume.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


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
