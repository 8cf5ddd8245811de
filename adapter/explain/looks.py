"""What the network itself looked at: the attention of its pools, and the places that D2ST's two pathways sampled.

The decision that shaped it: the network is not changed for this. Hooks keep what a module was given while the ordinary forward pass runs,
and the few small tensors that it threw away are computed again from that by the modules' own parts, so what is shown is what was computed
(a test holds the two against each other, bit for bit).

A sampled place has two numbers. `weight` is the mean attention that it gets from all tokens of the clip, CLS among them: all of them are
pooled in the end, and CLS is one of 197. `effect` is value x gradient, by how much the logit falls, to first order, if the place shows
nothing; a place that all tokens look at may still change nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2st.adapter.explain.features import Features, clip_values, run
from d2st.adapter.nets.d2st_body import D2STBody, normalise, place
from d2st.adapter.nets.detector import Detector
from d2st.adapter.nets.dsta import sample
from d2st.adapter.nets.ends import ascend, descend
from d2st.adapter.nets.mixing import mix
from d2st.adapter.nets.pooling import FramePool, TokenPool
from d2st.adapter.nets.side import SideNetwork

__all__ = ["Attention", "Looks", "SampledPoints", "body_points", "looks"]


@dataclass(frozen=True)
class Attention:
    """What the pools took, of one clip; float32.

    Attributes:
        tokens: (heads,T,H,W), share of each patch in its frame; with `cls` (heads,T), that of its CLS token, 1 a head and frame.
        frames: (T,), share of each frame in the clip.
    """

    tokens: np.ndarray
    cls: np.ndarray
    frames: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Share of each patch in the clip, mean of the heads: (T,H,W)."""
        return self.tokens.mean(axis=0) * self.frames[:, None, None]


@dataclass(frozen=True)
class SampledPoints:
    """Where one pathway of one body looked, of one clip: n places for each of G groups of channels (heads); float32.

    Attributes:
        layer: the tapped layer that the body reads. body: its number there, from 0 on.
        pathway: spatial (few instants, many places) or temporal (every instant, few places).
        places: (n,G,3), frame, row and column in cells of the token grid, counted from cell centres; may lie outside the clip.
        weight: (n,G), mean attention; sums to 1 a group. effect: (n,G), in units of the logit, > 0 towards fake.
        inside: (n,G), how much of the sample lay inside of the clip, 0..1.
    """

    layer: str
    body: int
    pathway: str
    places: np.ndarray
    weight: np.ndarray
    effect: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Looks:
    """`logit` and `frame_logits` (T,) of the clip, raw; attention is None where the adapter pools by a mean, points are D2ST's alone."""

    logit: float
    frame_logits: np.ndarray
    attention: Attention | None
    points: tuple[SampledPoints, ...]


def looks(detector: Detector, tokens: Features, cls: Features) -> Looks:
    """Run the detector on one clip and keep what it looked at; tokens, cls and errors as for `clip_values`."""
    values = clip_values(detector, tokens, cls)
    grid = next(iter(values.values())).shape[2:4]
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    with torch.enable_grad(), _watched(detector) as seen:
        output = run(detector, leaves)
        bodies = [(module, *kept) for module, kept in seen.items() if isinstance(module, D2STBody)]
        gradients = torch.autograd.grad(output.clip_logit.sum(), [out for _, _, out in bodies]) if bodies else ()
    names = dict(_named_bodies(detector.adapter))
    points = []
    for (body, given, _), gradient in zip(bodies, gradients, strict=True):
        layer, number = names[body]
        points += body_points(body, given[0].detach(), given[1], gradient, layer=layer, number=number)[0]
    attention = _attention({type(module): (module, given[0].detach()) for module, (given, _) in seen.items()}, grid)
    logit = float(output.clip_logit.detach())
    # a frame alone is its clip, so both logits are one there
    frame_logits = _array(output.frame_logits[0]) if output.frame_logits.shape[1] > 1 else np.array([logit], np.float32)
    return Looks(logit, frame_logits, attention, tuple(points))


@contextmanager
def _watched(detector: Detector) -> Iterator[dict[nn.Module, tuple[Any, Tensor]]]:
    """What pools and bodies were given and gave, by module, in the order in which they ran."""
    seen: dict[nn.Module, tuple[Any, Tensor]] = {}

    def keep(module: nn.Module, given: Any, made: Tensor) -> None:
        seen[module] = (given, made)

    watched = [m for m in detector.modules() if isinstance(m, (TokenPool, FramePool, D2STBody))]
    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _named_bodies(adapter: nn.Module) -> Iterator[tuple[nn.Module, tuple[str, int]]]:
    """Each body of a side network, with its layer and its number there."""
    if isinstance(adapter, SideNetwork):
        for layer, bodies in zip(adapter.layers, adapter.bodies, strict=True):
            yield from ((body, (layer, number)) for number, body in enumerate(bodies))


def _attention(pools: dict[type, tuple[Any, Tensor]], grid: tuple[int, int]) -> Attention | None:
    if TokenPool not in pools or FramePool not in pools:
        return None
    with torch.no_grad():
        taken, frames = (module.weights(given)[0] for module, given in (pools[TokenPool], pools[FramePool]))
    taken = taken.movedim(-1, 0)  # (heads, T, 1+H*W): CLS first, then the patches
    return Attention(_array(taken[..., 1:].unflatten(-1, grid)), _array(taken[..., 0]), _array(frames[:, 0]))


def body_points(
    body: D2STBody, x: Tensor, grid: tuple[int, int], gradient: Tensor, *, layer: str, number: int
) -> tuple[list[SampledPoints], Tensor]:
    """The places of both pathways of a body for one clip, and the body's output as it is computed here.

    Args:
        x: what the body was given, (1, T, 1+H*W, C). gradient: d logit / d output, of the same shape.
    """
    with torch.no_grad():
        narrow, x = descend(x, body.down.weight, body.down.bias, x.dtype)
        z = place(narrow, body.position.weight, body.position.bias, grid)
        normal = normalise(z, body.spatial.norm.eps)
        found = []
        for name, pathway in (("spatial", body.spatial), ("temporal", body.temporal)):
            query = pathway.ask(normal)
            places = pathway.places(query, grid)
            samples, inside = sample(normal, places, grid)
            found.append((name, query.flatten(1, 2), places, inside, *pathway.look(samples, inside)))
    values = [value.requires_grad_() for *_, value in found]  # (1, heads * n, C'), with W_o in them
    with torch.enable_grad():
        y = z.flatten(1, 2)
        for (_, query, _, _, key, _), value in zip(found, values, strict=True):
            y = mix(y, query, key, value)
        out = ascend(x, y.view_as(z), body.up.weight, body.up.bias)
        moved = torch.autograd.grad(out, values, gradient)
    points = []
    for (name, query, places, inside, key, value), slope in zip(found, moved, strict=True):
        heads = key.shape[1]
        weight = torch.softmax(query.unflatten(-1, (heads, -1)).transpose(1, 2) @ key.mT, dim=-1).mean(dim=2)  # (1, heads, n)
        effect = (value.detach() * slope).sum(-1).unflatten(1, (heads, -1))  # (1, heads, n)
        parts = (places[0], weight[0].T, effect[0].T, inside[0, ..., 0])
        points.append(SampledPoints(layer, number, name, *map(_array, parts)))
    return points, out.detach()


def _array(value: Tensor) -> np.ndarray:
    return value.detach().float().cpu().numpy()
