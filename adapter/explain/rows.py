"""Which kinds of evidence a clip has, each as a row of panels that figure and film share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from d2st.adapter.explain.evidence import Evidence
from d2st.adapter.explain.panels import attention_panel, crop_panel, points_panel, relevance_panel, strength

__all__ = ["Row", "evidence_rows"]


@dataclass(frozen=True)
class Row:
    """A kind of evidence: `panel(frame)` draws it, (side,side,3) uint8 RGB."""

    title: str
    about: str
    panel: Callable[[int], np.ndarray]


def evidence_rows(crops: np.ndarray, evidence: Evidence, *, side: int) -> list[Row]:
    """The crops (T,S,S,3), then relevance, attention and places as far as the detector has them; panels of `side` px."""
    total = evidence.relevance.total  # (T,H,W)
    rows = [
        Row("face crop", "what the detector saw", lambda frame: crop_panel(crops[frame], side=side)),
        Row("relevance", "gradient x activation, all layers", partial(_relevance, crops, total, strength(total), side)),
    ]
    if evidence.attention is not None:
        attention = evidence.attention.total
        rows.append(Row("attention", "of the pool, mean of heads", partial(_attention, crops, attention, side)))
    for pathway, about in (("spatial", "few instants, many places"), ("temporal", "every instant, few places")):
        points = [body for body in evidence.points if body.pathway == pathway]
        if points:
            draw = partial(
                points_panel,
                points=points,
                frames=len(crops),
                grid=total.shape[1:],
                full_weight=max(float(body.weight.max()) for body in points),
                full_effect=strength(np.concatenate([body.effect.ravel() for body in points])),
                side=side,
            )
            rows.append(Row(f"{pathway} pathway", about, lambda frame, draw=draw: draw(crops[frame], frame=frame)))
    return rows


def _relevance(crops: np.ndarray, total: np.ndarray, full: float, side: int, frame: int) -> np.ndarray:
    return relevance_panel(crops[frame], total[frame], full=full, side=side)


def _attention(crops: np.ndarray, total: np.ndarray, side: int, frame: int) -> np.ndarray:
    return attention_panel(crops[frame], total[frame], even=float(total.mean()), full=strength(total), side=side)
