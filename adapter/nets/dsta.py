"""Anisotropic deformable spatio-temporal attention (aDSTA): every token looks at a few places that the clip itself chooses.

Pei et al., "D2ST-Adapter", ICCV 2025, arXiv 2312.01431. For patches x (T,H,W) and queries q = W_q x of all tokens, CLS included:

    delta = tanh(Point(GELU(LN(DWConv(q_patches))))) * min(1, 2 / N')     per group and axis, N' = T', H', W' of the conv's output grid
    p     = cell centres of the (T',H',W') grid in [-1, 1] + delta         x' = trilinear(x, p), zeros outside, align_corners=True
    out   = W_o softmax(q (W_k x')^T / sqrt(d)) (W_v x')                   heads = offset groups

The decision that shaped it: tokens stay in (batch, token, channel) layout throughout. The samples are gathered by a weighted
`embedding_bag` over 8 corners, which equals 5-D `grid_sample` without the copy into channel-first layout, and the affine part of the
LayerNorm that precedes the attention is folded into the projections, so that both pathways of a body share one normalised tensor.

At T >= 4 this is the published function. The published kernel of 4 frames can't be applied to fewer: see `fit_kernel`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2st.adapter.nets import plain
from d2st.adapter.nets.bags import bag_sums
from d2st.adapter.nets.depthwise import Axes, depthwise
from d2st.adapter.nets.norm import layer_norm

__all__ = [
    "SPATIAL_KERNEL",
    "SPATIAL_STRIDE",
    "TEMPORAL_KERNEL",
    "TEMPORAL_STRIDE",
    "DeformableAttention",
    "fit_kernel",
    "sample",
]

SPATIAL_KERNEL, SPATIAL_STRIDE = (4, 5, 5), (4, 3, 3)  # few instants, many places
TEMPORAL_KERNEL, TEMPORAL_STRIDE = (1, 7, 7), (1, 7, 7)  # every instant, few places


def fit_kernel(weight: Tensor, stride: Axes, extent: Axes) -> tuple[Tensor, Axes]:
    """Shrink a convolution kernel (..., k_t, k_h, k_w) to volumes smaller than itself, without new parameters.

    Along an axis of N < k cells the volume is seen as itself with cells repeated up to k (cell floor(i * N / k) at place i), and the taps
    that fall on one cell are summed. Kernel and stride there become min(k, N) and min(s, N). So a still (T=1) predicts just the offsets
    of a clip that shows the still k times, and what is learned on stills carries over to clips unchanged.
    """
    for axis, cells in enumerate(extent, start=weight.dim() - 3):
        taps = weight.shape[axis]
        if cells < taps:
            cell = torch.arange(taps, device=weight.device) * cells // taps
            shape = [*weight.shape[:axis], cells, *weight.shape[axis + 1 :]]
            weight = weight.new_zeros(shape).index_add(axis, cell, weight)
    return weight, (min(stride[0], extent[0]), min(stride[1], extent[1]), min(stride[2], extent[2]))


class DeformableAttention(nn.Module):
    """One pathway: LayerNorm, then aDSTA. Parameters have the published shapes.

    Args:
        channels: C', divisible by `heads`.
        heads: attention heads, and also groups that choose their places each on its own.
        kernel, stride: of the offset convolution over (frames, rows, columns).
    """

    def __init__(self, channels: int, heads: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels ({channels}) must be a multiple of heads ({heads})")
        group = channels // heads
        self.heads, self.stride = heads, stride
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.offset_conv = nn.Conv3d(group, group, kernel, stride, groups=group)
        self.offset_norm = nn.LayerNorm(group)
        self.offset_point = nn.Conv3d(group, 3, 1, bias=False)

    def ask(self, normal: Tensor) -> Tensor:
        """Queries W_q LN(x) of tokens normalised without affine, (B, T, 1+H*W, C') both."""
        weight, bias = self.query.weight * self.norm.weight, self.query.bias + (self.query.weight * self.norm.bias).sum(-1)
        return F.linear(normal, weight, bias)

    def places(self, query: Tensor, grid: tuple[int, int]) -> Tensor:
        """Where each group looks, in cells (frame, row, column) of the clip, (B, n, heads, 3) with n = T'H'W'; may lie outside.

        Args:
            query: W_q LN(x), (B, T, 1+H*W, C'); may be a strided slice.
            grid: (H, W).
        """
        extent, patches = (query.shape[1], *grid), query[:, :, 1:].unflatten(2, grid)  # (B, T, H, W, C')
        seen, taps = extent, self.offset_conv.kernel_size[0]
        if plain.exporting():
            patches, seen = plain.windows(patches, taps), (taps, *grid)
        weight, stride = fit_kernel(self.offset_conv.weight, self.stride, seen)
        weight, bias = weight.repeat(self.heads, 1, 1, 1, 1), self.offset_conv.bias.repeat(self.heads)  # shared by groups
        cells = depthwise(patches, weight, bias, stride=stride)  # (B, T', H', W', C')
        cells = cells.unflatten(-1, (self.heads, -1))
        cells = layer_norm(cells, self.offset_norm.weight, self.offset_norm.bias)  # (B, T', H', W', heads, C'/heads)
        raw = F.linear(F.gelu(cells), self.offset_point.weight.flatten(1))  # (..., 3): z, y, x
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # half a cell must not be rounded away
        if plain.exporting():
            return plain.spread(raw, extent, taps)
        parts = raw.shape[1:4]
        axes = [(torch.arange(n, dtype=raw.dtype, device=raw.device) + 0.5) * (2 / n) - 1 for n in parts]
        centres = torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).unsqueeze(3)  # (T', H', W', 1, 3)
        place = centres + raw.tanh() * raw.new_tensor([min(1.0, 2 / n) for n in parts])  # in [-1, 1] of the clip, not clamped
        return ((place + 1) * raw.new_tensor([(size - 1) / 2 for size in extent])).flatten(1, 3)

    def look(self, samples: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """What stands at the places, from `sample`: keys (B, heads, n, d), and values with W_o / 2 applied, (B, heads * n, C')."""
        # LN(x) = normal * gamma + beta, and sampling is linear: beta arrives weakened where a sample lies partly outside
        gamma, beta = (t.unflatten(0, (self.heads, -1)) for t in (self.norm.weight, self.norm.bias))
        samples = (samples * gamma + inside * beta).flatten(2)  # (B, n, C')
        key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.key(samples), self.value(samples)))
        out = self.out.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # (heads, d, C')
        value = torch.matmul(value, out / 2) + self.out.bias / (2 * self.heads)  # the weights of each head sum to 1
        return key * key.shape[-1] ** -0.5, value.flatten(1, 2)


def sample(normal: Tensor, places: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Trilinear samples of the patches, zero outside, and how much of each lay inside.

    Args:
        normal: tokens (B, T, 1+H*W, C'), CLS first in each frame.
        places: in cells (frame, row, column), one for each group of channels, (B, n, heads, 3).
        grid: (H, W).

    Returns:
        (B, n, heads, C'/heads) and (B, n, heads, 1) in [0, 1].
    """
    if plain.exporting():
        return plain.sample(normal, places, grid)
    (batch, frames, tokens, channels), heads = normal.shape, places.shape[2]
    extent, step = torch.tensor([(frames, *grid), (tokens, grid[1], 1)], device=normal.device).unsqueeze(-1)  # each (3, 1)
    low = places.detach().floor()
    part = places - low
    corners = torch.stack((low, low + 1), dim=-1).long()  # (B, n, heads, 3, 2)
    weights = torch.stack((1 - part, part), dim=-1) * ((corners >= 0) & (corners < extent))
    z, y, x = (torch.minimum(corners.clamp(min=0), extent - 1) * step).unbind(3)  # in rows of a clip
    wz, wy, wx = weights.unbind(3)
    clip = torch.arange(batch, device=normal.device).view(-1, 1, 1, 1, 1, 1) * (frames * tokens) + 1  # a frame's row 0 is CLS
    group = torch.arange(heads, device=normal.device).view(-1, 1, 1, 1)
    rows = (z[..., None, None] + y[..., None, :, None] + x[..., None, None, :] + clip) * heads + group  # (B, n, heads, 2, 2, 2)
    weight = wz[..., None, None] * wy[..., None, :, None] * wx[..., None, None, :]
    table = normal.reshape(-1, channels // heads)  # (B * T * (1+H*W) * heads, C'/heads)
    weight = weight.flatten(3).to(table.dtype)  # (B, n, heads, 8)
    bags = bag_sums(table, rows.view(-1, 8), weight.view(-1, 8))
    return bags.unflatten(0, weight.shape[:3]), weight.sum(-1, keepdim=True)
