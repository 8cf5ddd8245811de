"""Percentile bootstrap intervals over groups: whole videos are drawn with replacement, never single frames.

Frames of one video are near copies of each other, so an interval over frames is several times too narrow. The draw is stratified by class,
as in pROC (Robin et al., BMC Bioinformatics 2011): real videos and fake videos are drawn apart, because a test set fixes how many of each
there are, and so no resample can lose a class. Efron & Tibshirani 1993, chapter 13, for the percentile method: it is a little narrow for
a few dozen videos, and it can't leave [1, 1] when the two classes do not overlap at all.

Fast because nothing is sorted twice: scores are tallied once, a resample is a vector of weights, and the metrics take all of them at once.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from d2st.adapter.evaluate.metrics import Array, Tally, tally

__all__ = ["bootstrap_intervals", "bootstrap_values", "central"]

CHUNK_WEIGHTS = 1_000_000  # weights held at once: 8 MB an array, whatever the number of frames


def bootstrap_intervals(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    metrics: Mapping[str, Callable[[Tally], Array]],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The central `confidence` interval of each metric: name -> (low, high), the same for the same `seed`; arguments and nan as in
    `bootstrap_values`, and nan too where a metric is undefined in every resample."""
    values = bootstrap_values(labels, scores, groups, metrics, resamples=resamples, seed=seed)
    return {name: central(found, confidence=confidence) for name, found in values.items()}


def bootstrap_values(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    metrics: Mapping[str, Callable[[Tally], Array]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Array]:
    """Each metric of each resample, name -> (resamples,).

    What is drawn depends on the labels, the groups and `seed` alone: other scores of the same samples meet the same resamples, which is
    what makes differences paired.

    Args:
        labels, scores: (N,) as in `metrics.tally`.
        groups: (N,) anything that compares: what is drawn as a whole, such as video_id. Groups of both classes are a third stratum.
        metrics: functions of a Tally whose arrays are (R, U).

    All nan where a class has fewer than two groups: drawing one video from one says nothing about other videos.
    """
    y = np.asarray(labels)
    counts = tally(y, scores)
    order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    names, group = np.unique(np.asarray(groups), return_inverse=True)  # (G,), (N,)
    has_fake = np.bincount(group, weights=y == 1, minlength=names.size) > 0
    has_real = np.bincount(group, weights=y == 0, minlength=names.size) > 0
    if min(has_fake.sum(), has_real.sum()) < 2:
        return {name: np.full(resamples, np.nan) for name in metrics}

    strata = [np.flatnonzero(inside) for inside in (has_real & ~has_fake, has_fake & ~has_real, has_real & has_fake)]
    first = np.searchsorted(np.asarray(scores, dtype=np.float64)[order], counts.scores)  # (U,) where each distinct score begins
    group, fake = group[order], (y[order] == 1).astype(np.float64)  # (N,), scores rising
    rngs = np.random.default_rng(seed).spawn(len(strata))  # so that the draws do not depend on the chunks
    values: dict[str, list[Array]] = {name: [] for name in metrics}
    step = max(1, CHUNK_WEIGHTS // y.size)
    for begin in range(0, resamples, step):
        drawn = _draw(rngs, strata, names.size, min(step, resamples - begin))  # (R, G) how often each group was drawn
        weights = drawn[:, group]  # (R, N)
        fakes = np.add.reduceat(weights * fake, first, axis=1)  # (R, U)
        both = np.add.reduceat(weights, first, axis=1)  # (R, U)
        resampled = Tally(counts.scores, both - fakes, fakes)
        for name, metric in metrics.items():
            values[name].append(metric(resampled))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def central(values: Array, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval that leaves out as many of the values (R,) below as above; nan values are passed over, (nan, nan) for nothing else."""
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _draw(rngs: list[np.random.Generator], strata: list[npt.NDArray[np.int64]], groups: int, resamples: int) -> Array:
    """How often each group is drawn, (R, G): from a stratum of n groups, n are drawn with replacement."""
    drawn = np.zeros((resamples, groups))
    for rng, members in zip(rngs, strata, strict=True):
        n = members.size
        if n:
            picks = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
            drawn[:, members] = np.bincount(picks.ravel(), minlength=resamples * n).reshape(resamples, n)
    return drawn
