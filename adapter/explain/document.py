"""Evidence as JSON values: every number that is drawn, for whoever wants to count rather than look."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from d2st.adapter.explain.evidence import Evidence
from d2st.adapter.explain.looks import SampledPoints

__all__ = ["evidence_document"]

DIGITS = 5  # significant ones


def evidence_document(evidence: Evidence) -> dict[str, Any]:
    """Arrays become nested lists, (T,H,W) as [frame][row][column]; keys are explained in `about`."""
    attention = evidence.attention
    return {
        "about": ABOUT,
        "logit": evidence.logit,
        "frame_logits": _list(evidence.frame_logits),
        "layers": [asdict(share) for share in evidence.layers],
        "relevance": {layer: _list(values) for layer, values in evidence.relevance.maps.items()},
        "relevance_total": _list(evidence.relevance.total),
        "relevance_cls": {layer: _list(values) for layer, values in evidence.relevance.cls.items()},
        "attention": attention
        and {"tokens": _list(attention.tokens), "cls": _list(attention.cls), "frames": _list(attention.frames)},
        "points": [_points(body) for body in evidence.points],
    }


ABOUT: Mapping[str, str] = {
    "logit": "raw log-odds of fake; frame_logits: of each frame within the clip",
    "layers": "ablation: by how much the logit falls when nothing is read of the layer; gradient, cls: sum of its relevance",
    "relevance": "layer -> [frame][row][column], in logits, above 0 towards fake; relevance_total: all layers, smoothed, as drawn;"
    " relevance_cls: layer -> [frame]",
    "attention": "tokens: [head][frame][row][column], with cls [head][frame] of sum 1 a head and frame; frames: share of each in the clip",
    "points": "places that D2ST sampled: [frame, row, column] in cells from the centre of the first, weight (mean attention, of sum 1 a"
    " group), effect (value x gradient, in logits, above 0 towards fake), inside (share of the sample within the clip)",
}


def _points(body: SampledPoints) -> dict[str, Any]:
    count, groups = body.weight.shape
    return {
        "layer": body.layer,
        "body": body.body,
        "pathway": body.pathway,
        "group": [group for _ in range(count) for group in range(groups)],
        "places": _list(body.places.reshape(-1, 3)),
        "weight": _list(body.weight.ravel()),
        "effect": _list(body.effect.ravel()),
        "inside": _list(body.inside.ravel()),
    }


def _list(values: np.ndarray) -> Sequence[Any]:
    """Nested lists, rounded: sixteen digits of a float32 are noise."""
    if values.ndim > 1:
        return [_list(part) for part in values]
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
