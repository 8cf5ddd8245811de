"""Differences between detectors on the same samples: a paired bootstrap over videos, and Holm's correction for several tests.

Two detectors meet the same hard and easy videos, so their metrics rise and fall together from resample to resample; the interval of the
difference is then often far narrower than the two intervals suggest, and whether those overlap says little. Hence each resample draws
videos once and measures all detectors on them (Efron & Tibshirani 1993, chapter 16).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from d2st.adapter.evaluate.bootstrap import bootstrap_values, central
from d2st.adapter.evaluate.metrics import Array, Tally, tally

__all__ = ["Difference", "holm", "paired_differences"]


@dataclass(frozen=True)
class Difference:
    """A detector's metric, less that of the first; nan where undefined."""

    value: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]


def paired_differences(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    metric: Callable[[Tally], Array],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """`metric` of each of K detectors and its difference to the first's, with intervals from the same resamples.

    Args:
        labels: (N,) of 0 or 1. scores: (K, N), finite. groups: (N,), what is drawn as a whole, such as video_id.
        metric: a function of a Tally whose arrays may be (R, U).

    The intervals are nan where a class has fewer than two groups.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    estimates = [float(metric(tally(labels, row))) for row in table]
    drawn = [
        bootstrap_values(labels, row, groups, {"metric": metric}, resamples=resamples, seed=seed)["metric"] for row in table
    ]
    return [
        Difference(
            value,
            central(values, confidence=confidence),
            value - estimates[0],
            central(values - drawn[0], confidence=confidence),
        )
        for value, values in zip(estimates, drawn, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in their order (Holm, Scandinavian Journal of Statistics 1979); nan is no test and stays."""
    corrected = list(p_values)
    tests = sorted((p, place) for place, p in enumerate(p_values) if not np.isnan(p))
    largest = 0.0
    for done, (p, place) in enumerate(tests):
        largest = max(largest, min(1.0, p * (len(tests) - done)))
        corrected[place] = largest
    return corrected
