"""The networks' blocks in the form that can be exported: the same numbers from ordinary operators, for any number of frames T >= 1.

The decision that shaped it: one switch, `export_form`. Inside it each block whose own form can't be exported (an autograd function, a loop
over chunks, a choice that depends on T or on data) answers with its form from here, so a new adapter made of these blocks exports as it is.
T may be symbolic, hence no Python number is made of it: a clip of fewer frames than a kernel is shown with frames repeated, which is what
`dsta.fit_kernel` says of it, and a still has no neighbour to change against. There is no backward pass to save memory for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "change",
    "convolve",
    "export_form",
    "exporting",
    "mix",
    "number",
    "place",
    "sample",
    "spread",
    "standardised_products",
    "windows",
]

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def exporting() -> bool:
    """Whether the blocks shall answer in the form that can be exported."""
    return _exporting.get()


@contextmanager
def export_form() -> Iterator[None]:
    """The networks run in their exportable form inside; all frames given are taken as valid there, masks are not looked at."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


def number(size: int, like: Tensor) -> Tensor:
    """A size that may be symbolic as a scalar tensor of the dtype of `like`."""
    return torch.ones(size, dtype=like.dtype, device=like.device).sum()


def windows(volume: Tensor, taps: int) -> Tensor:
    """Volume (B, T, ...) as a kernel of so many frames, at a stride of as many, shall see it: with two windows of frames at least.

    Of fewer than `taps` frames, frame floor(i * T / taps) stands at place i. A single window is shown twice, for a size of 1 would have to
    be known when the graph is made: each key then comes twice, which changes no softmax.
    """
    if taps == 1:
        return volume
    frames = volume.shape[1]
    place = torch.arange(torch.sym_max(frames, 2 * taps), device=volume.device)
    count = torch.full_like(place, 0) + frames
    place = torch.where(count < 2 * taps, place % taps, place)
    return volume[:, torch.minimum(place * frames // taps, place)]  # for T >= taps, place * T / taps >= place


def change(z: Tensor) -> Tensor:
    """`read.change` for any T: a still does not change."""
    index = torch.arange(z.shape[1], device=z.device)
    last = torch.zeros_like(index) + (z.shape[1] - 1)
    before, after = (index - 1).clamp(min=0), torch.minimum(index + 1, last)
    neighbours = (index > 0).to(z.dtype) + (index < last).to(z.dtype)  # (T,)
    moved = (z - z[:, before]).abs() + (z[:, after] - z).abs()
    return moved / neighbours.clamp(min=1).view(-1, *(1,) * (z.dim() - 2))


def convolve(volume: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """`depthwise.depthwise` of (B, T, H, W, C), as one conv3d."""
    out = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight, bias, stride, padding, groups=len(weight))
    return out.permute(0, 2, 3, 4, 1)


def place(narrow: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """`d2st_body.place`."""
    z = F.gelu(narrow)
    patches = z[:, :, 1:].unflatten(2, grid)  # (B, T, H, W, C')
    placed = patches + convolve(patches, weight, bias, (1, 1, 1), (1, 1, 1))
    return torch.cat((z[:, :, :1], placed.flatten(2, 3)), dim=2)


def mix(z: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`mixing.mix`: z, query (B, N, C), key (B, heads, n, d), value (B, heads * n, C)."""
    queries = query.unflatten(-1, (key.shape[1], -1)).transpose(1, 2)  # (B, heads, N, d)
    weights = torch.softmax(queries @ key.mT, dim=-1).transpose(1, 2)  # (B, N, heads, n)
    return z + weights.flatten(2) @ value


def standardised_products(
    x: Tensor, scale: Tensor, shift: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """`products.standardised_products`."""
    standard = torch.addcmul(shift, x.to(scale.dtype), scale).to(weights[0].dtype)
    return tuple(F.linear(standard, weight, bias) for weight, bias in zip(weights, biases, strict=True))


def spread(raw: Tensor, extent: Sequence[int], taps: int) -> Tensor:
    """The last step of `dsta.DeformableAttention.places`: offsets (B, T', H', W', heads, 3) before tanh, of `windows` of `taps` frames, to
    places in cells of `extent`."""
    sizes = [number(size, raw) for size in extent]
    counts = torch.stack([(sizes[0] / taps).floor().clamp(min=1), *(number(size, raw) for size in raw.shape[2:4])])  # (3,)
    axes = [torch.arange(size, dtype=raw.dtype, device=raw.device) for size in raw.shape[1:4]]
    cells = torch.minimum(torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1), counts - 1)  # (T', H', W', 3)
    place = ((cells + 0.5) * (2 / counts) - 1).unsqueeze(3) + raw.tanh() * (2 / counts).clamp(max=1)
    return ((place + 1) * ((torch.stack(sizes) - 1) / 2)).flatten(1, 3)


def sample(normal: Tensor, places: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`dsta.sample`: a gather of the eight corners."""
    (batch, frames, tokens, channels), heads = normal.shape, places.shape[2]
    low = places.floor()
    sizes = (number(frames, places), *(places.new_tensor(float(size)) for size in grid))
    index, weight = [], []
    for axis, size in enumerate(sizes):
        base, part = low[..., axis], (places - low)[..., axis]  # (B, n, heads)
        corners = torch.stack((base, base + 1), dim=-1)  # (B, n, heads, 2)
        inside = ((corners >= 0) & (corners < size)).to(part.dtype)
        weight.append(torch.stack((1 - part, part), dim=-1) * inside)
        index.append(torch.minimum(corners.clamp(min=0), size - 1).long())
    (z, y, x), (wz, wy, wx) = index, weight
    rows = (
        (z * tokens)[..., None, None] + (y * grid[1])[..., None, :, None] + x[..., None, None, :] + 1
    )  # a frame's row 0 is CLS
    clip = torch.arange(batch, device=normal.device).view(-1, 1, 1, 1) * (frames * tokens)
    group = torch.arange(heads, device=normal.device).view(-1, 1)
    rows = (rows.flatten(3) + clip) * heads + group  # (B, n, heads, 8)
    weights = (wz[..., None, None] * wy[..., None, :, None] * wx[..., None, None, :]).flatten(3).to(normal.dtype)
    corners = F.embedding(rows, normal.reshape(-1, channels // heads))  # (B, n, heads, 8, C'/heads)
    return (corners * weights.unsqueeze(-1)).sum(3), weights.sum(-1, keepdim=True)
