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

__all__ = ["SPATIAL_KERNEL", "SPATIAL_STRIDE", "TEMPORAL_KERNEL", "TEMPORAL_STRIDE", "DeformableAttention", "fit_kernel"]

Axes = tuple[int, int, int]  # frames, rows, columns

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

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """aDSTA(LN(x)) of tokens (B, T, 1+H*W, C'), CLS first in each frame; same shape out."""
        normal = F.layer_norm(x, x.shape[-1:], eps=self.norm.eps)
        return self.out(self.attend(F.linear(normal, *self.query_map()), normal, grid))

    def query_map(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of W_q LN(x) as one linear map of the normalised tokens without affine."""
        return self.query.weight * self.norm.weight, F.linear(self.norm.bias, self.query.weight, self.query.bias)

    def attend(self, query: Tensor, normal: Tensor, grid: tuple[int, int]) -> Tensor:
        """The attention up to W_o, (B, T, 1+H*W, C').

        Args:
            query: W_q LN(x), (B, T, 1+H*W, C'); may be a strided slice.
            normal: normalised x without affine, (B, T, 1+H*W, C').
            grid: (H, W).
        """
        batch, frames, tokens, channels = query.shape
        samples, inside = self._sample(normal, self._places(query, grid), grid)
        # LN(x) = normal * gamma + beta, and sampling is linear: beta arrives weakened where a sample lies partly outside
        gamma, beta = (t.unflatten(0, (self.heads, -1)) for t in (self.norm.weight, self.norm.bias))
        samples = (samples * gamma + inside * beta).flatten(2)  # (B, n, C')
        q, k, v = (
            t.view(batch, -1, self.heads, channels // self.heads).transpose(1, 2)  # (B, heads, tokens or n, d)
            for t in (query.flatten(1, 2), self.key(samples), self.value(samples))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(batch, frames, tokens, channels)

    def _places(self, query: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Where each group looks: along each axis (B, n, heads), n = T'H'W', in cells of the clip; may lie outside."""
        extent, channels = (query.shape[1], *grid), query.shape[-1]
        volume = query[:, :, 1:].unflatten(2, grid).permute(0, 4, 1, 2, 3)  # (B, C', T, H, W), a view
        weight, stride = fit_kernel(self.offset_conv.weight, self.stride, extent)
        weight, bias = weight.repeat(self.heads, 1, 1, 1, 1), self.offset_conv.bias.repeat(self.heads)  # shared by groups
        cells = F.conv3d(volume, weight, bias, stride, groups=channels).permute(0, 2, 3, 4, 1)  # (B, T', H', W', C')
        cells = self.offset_norm(cells.unflatten(-1, (self.heads, -1)))  # (B, T', H', W', heads, C'/heads)
        raw = F.linear(F.gelu(cells), self.offset_point.weight.flatten(1))  # (..., 3): z, y, x
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # half a cell must not be rounded away
        places = []
        for axis, (size, parts) in enumerate(zip(extent, raw.shape[1:4], strict=True)):
            centre = (torch.arange(parts, dtype=raw.dtype, device=raw.device) + 0.5) * (2 / parts) - 1
            centre = centre.view([-1 if i == axis else 1 for i in range(3)] + [1])  # (T', 1, 1, 1) and so on
            place = centre + raw[..., axis].tanh() * min(1.0, 2 / parts)  # in [-1, 1] of the clip, not clamped
            places.append((place.flatten(1, 3) + 1) * ((size - 1) / 2))
        return places

    def _sample(self, normal: Tensor, places: list[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Trilinear samples of the patches, (B, n, heads, C'/heads), and the weight of each that fell inside, (B, n, heads, 1)."""
        batch, frames, tokens, channels = normal.shape
        corners, weights = [], []  # of each axis (B, n, heads, 2)
        for place, size in zip(places, (frames, *grid), strict=True):
            low = place.detach().floor()
            corner = torch.stack((low, low + 1), dim=-1)
            weight = 1 - (place.unsqueeze(-1) - corner).abs()
            weights.append(weight * ((corner >= 0) & (corner < size)))
            corners.append(corner.clamp(0, size - 1).long())
        (z, y, x), (wz, wy, wx) = corners, weights
        clip = torch.arange(batch, device=normal.device).view(-1, 1, 1, 1)
        frame = ((clip * frames + z) * tokens + 1)[..., None, None]  # row of a frame's first patch; CLS is the row before
        patch = y[..., None, :, None] * grid[1] + x[..., None, None, :]
        group = torch.arange(self.heads, device=normal.device).view(-1, 1, 1, 1)
        rows = (frame + patch) * self.heads + group  # (B, n, heads, 2, 2, 2)
        table = normal.reshape(-1, channels // self.heads)  # (B * T * (1+H*W) * heads, C'/heads)
        weight = wz[..., None, None] * wy[..., None, :, None] * wx[..., None, None, :]
        weight = weight.flatten(3).to(table.dtype)  # (B, n, heads, 8)
        bags = F.embedding_bag(rows.view(-1, 8), table, mode="sum", per_sample_weights=weight.view(-1, 8))
        return bags.unflatten(0, weight.shape[:3]), weight.sum(-1, keepdim=True)
