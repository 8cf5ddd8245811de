"""All that is known of why a clip has its logit: where (relevance, attention, sampled places), when, and from which layer.

A detector that looks at single frames (clip_frames 1) is explained frame by frame: its logit is the mean of theirs, and so each
attribution counts by 1/T.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import nn

from d2st.adapter.explain.features import Features, clip_values, run
from d2st.adapter.explain.looks import Attention, Looks, SampledPoints, looks
from d2st.adapter.explain.relevance import Relevance, relevance
from d2st.adapter.nets.detector import Detector
from d2st.adapter.nets.side import SideNetwork

__all__ = ["Evidence", "LayerShare", "explain"]


@dataclass(frozen=True)
class LayerShare:
    """What one tapped layer did to the logit, > 0 towards fake.

    Attributes:
        ablation: how much the logit falls when the network reads nothing of the layer: its maps and CLS are their training means, which
            are 0 once standardised.
        gradient: sum of its relevance over patches, cls: over CLS tokens. To first order the same, around the clip as it is.
    """

    layer: str
    ablation: float
    gradient: float
    cls: float


@dataclass(frozen=True)
class Evidence:
    """Why one clip has its logit; shapes as in `Relevance`, `Attention` and `SampledPoints`.

    Attributes:
        logit: raw, as the detector gives it. frame_logits: (T,).
        attention: None where the adapter pools by a mean.
        points: of D2ST's bodies, in the order in which they run; empty for other adapters.
    """

    logit: float
    frame_logits: np.ndarray
    relevance: Relevance
    attention: Attention | None
    points: tuple[SampledPoints, ...]
    layers: tuple[LayerShare, ...]


def explain(detector: Detector, tokens: Features, cls: Features, *, frames_alone: bool = False, seed: int = 0) -> Evidence:
    """Explain one clip; the detector's weights and mode are left as they are.

    Args:
        detector: in evaluation mode.
        tokens: layer -> (T,H,W,C), cls: layer -> (T,C), any float dtype, on the detector's device; no padded frames.
        frames_alone: the detector scores frames one by one, and the clip's logit is the mean of theirs.
        seed: of the noise that gradients are averaged over.

    Raises:
        ConfigError: the adapter reads no maps.
    """
    if not frames_alone:
        return _clip(detector, tokens, cls, seed=seed)
    count = len(next(iter(cls.values())))
    alone = [slice(k, k + 1) for k in range(count)]
    parts = [_clip(detector, *({n: v[k] for n, v in group.items()} for group in (tokens, cls)), seed=seed) for k in alone]
    return _mean(parts)


def _clip(detector: Detector, tokens: Features, cls: Features, *, seed: int) -> Evidence:
    seen: Looks = looks(detector, tokens, cls)
    moved = relevance(detector, tokens, cls, seed=seed)
    layers = [
        LayerShare(layer, seen.logit - without, float(moved.maps[layer].sum()), float(moved.cls[layer].sum()))
        for layer, without in _without_each(detector, tokens, cls).items()
    ]
    return Evidence(seen.logit, seen.frame_logits, moved, seen.attention, seen.points, tuple(layers))


def _without_each(detector: Detector, tokens: Features, cls: Features) -> dict[str, float]:
    """The logit when the network reads nothing of a layer, by layer."""
    values, means = clip_values(detector, tokens, cls), detector.adapter.means
    found = {}
    for layer in (name for name in values if not name.endswith("/cls")):
        gone = {name: means[name].expand_as(values[name]) for name in (layer, f"{layer}/cls")}
        with torch.no_grad(), _silent(detector.adapter, layer):
            found[layer] = float(run(detector, {**values, **gone}).clip_logit)
    return found


@contextmanager
def _silent(adapter: nn.Module, layer: str) -> Iterator[None]:
    """A side network's read of a layer gives 0. Its LayerNorm would blow what is left of a mean map, a bias, up to full length."""
    reads = []
    if isinstance(adapter, SideNetwork):
        index = adapter.layers.index(layer)
        reads = [adapter.reads[index], adapter.cls_reads[index]]
    handles = [read.register_forward_hook(lambda module, given, made: torch.zeros_like(made)) for read in reads]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mean(parts: list[Evidence]) -> Evidence:
    """Evidence of T frames that were looked at alone as that of one clip."""
    count = len(parts)

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays) / np.float32(count)

    first = parts[0]
    moved = Relevance(
        {layer: joined([part.relevance.maps[layer] for part in parts]) for layer in first.relevance.maps},
        {layer: joined([part.relevance.cls[layer] for part in parts]) for layer in first.relevance.cls},
    )
    attention = first.attention and Attention(
        np.concatenate([part.attention.tokens for part in parts], axis=1),
        np.concatenate([part.attention.cls for part in parts], axis=1),
        joined([part.attention.frames for part in parts]),
    )
    points = tuple(
        reduce(_join, of_body) for of_body in zip(*(_shifted(part, k, count) for k, part in enumerate(parts)), strict=True)
    )
    layers = tuple(
        LayerShare(each[0].layer, *(float(np.mean([getattr(s, key) for s in each])) for key in ("ablation", "gradient", "cls")))
        for each in zip(*(part.layers for part in parts), strict=True)
    )
    logits = np.concatenate([part.frame_logits for part in parts])
    return Evidence(float(np.mean([part.logit for part in parts])), logits, moved, attention, points, layers)


def _shifted(part: Evidence, frame: int, count: int) -> list[SampledPoints]:
    """The points of a frame alone at its place in the clip, and with its share of the clip."""
    move = np.array([frame, 0, 0], np.float32)
    return [replace(p, places=p.places + move, weight=p.weight / count, effect=p.effect / count) for p in part.points]


def _join(a: SampledPoints, b: SampledPoints) -> SampledPoints:
    pairs = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("places", "weight", "effect", "inside")}
    return replace(a, **pairs)
