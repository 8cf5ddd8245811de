"""Binary detection metrics: fake = 1 is the positive class, a score is higher the more fake.

Every metric is one function of `Tally`, the weights of real and fake samples at each distinct score. Leading axes are allowed, so the very
line that gives the estimate also gives a thousand bootstrap resamples at once, and ties can't be treated in two ways. Definitions follow
scikit-learn (`roc_auc_score`, `average_precision_score`, `f1_score`, `brier_score_loss`) wherever it has one. What a metric can't say is
nan, never 0.5 or 0: AUC, partial AUC, EER, average precision and TPR at FPR need both classes, Brier score and `calibration.ece` need
probabilities.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = [
    "THRESHOLD",
    "Confusion",
    "Tally",
    "accuracy",
    "average_precision",
    "binary_auc",
    "brier",
    "confusion",
    "eer",
    "f1",
    "partial_auc",
    "ratio",
    "roc_curve",
    "tally",
    "tpr_at_fpr",
]

THRESHOLD = 0.5  # a sample is called fake when its score is above this, as in DeepfakeBench
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """How much weight of each class lies at each distinct score. U distinct scores; `...` are resamples, or nothing.

    scores: (U,) rising. real, fake: (..., U) >= 0, whole numbers when samples are counted.
    """

    scores: Array
    real: Array
    fake: Array

    @cached_property
    def curve(self) -> tuple[Array, Array]:
        """FPR and TPR (..., U + 1); most metrics read them, and a bootstrap asks for all metrics of one tally."""
        fp, tp = _falling(self.real), _falling(self.fake)
        return ratio(fp, fp[..., -1:]), ratio(tp, tp[..., -1:])


@dataclass(frozen=True)
class Confusion:
    """Counts, each of shape (...): `fp` is reals called fake, `fn` fakes called real."""

    tn: Array
    fp: Array
    fn: Array
    tp: Array


def tally(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Tally:
    """Count labels (N,) of 0 or 1 by their finite scores (N,). Raises ValueError for anything else, NaN scores above all."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels and scores must be two vectors of one length, got shapes {y.shape} and {s.shape}")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels must be 0 (real) or 1 (fake)")
    if not np.isfinite(s).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(s))} of {s.size} scores are NaN or infinite: they have no place in a ranking"
        )
    distinct, place = np.unique(s, return_inverse=True)  # (U,), (N,)
    real = np.bincount(place, weights=y == 0, minlength=distinct.size)
    fake = np.bincount(place, weights=y == 1, minlength=distinct.size)
    return Tally(distinct, real, fake)


def binary_auc(counts: Tally) -> Array:
    """Area under the ROC curve (...): P(fake scores above real) + P(tie) / 2, which is the Mann-Whitney U over n_real * n_fake
    (Hanley & McNeil 1982); nan for one class."""
    below = np.cumsum(counts.real, axis=-1) - counts.real / 2  # real weight below each score, and half of that at it
    return ratio(np.sum(counts.fake * below, axis=-1), counts.real.sum(-1) * counts.fake.sum(-1))


def roc_curve(counts: Tally) -> tuple[Array, Array]:
    """FPR and TPR (..., U + 1) as the threshold falls from above every score to the lowest: from (0, 0) to (1, 1). nan for one class."""
    return counts.curve


def partial_auc(counts: Tally, max_fpr: float) -> Array:
    """Area under the ROC curve up to `max_fpr` in (0, 1], standardised (...): 0.5 is chance, 1 perfect (McClish, Medical Decision Making
    1989), as in `roc_auc_score(max_fpr=)`; nan for one class."""
    fpr, tpr = roc_curve(counts)
    steps, rises = np.diff(fpr, axis=-1), np.diff(tpr, axis=-1)  # (..., U)
    inside = np.diff(np.minimum(fpr, max_fpr), axis=-1)  # of each step, what lies left of max_fpr
    share = np.divide(inside, steps, out=np.zeros_like(steps), where=steps > 0)
    area = np.sum(inside * (tpr[..., :-1] + share * rises / 2), axis=-1)
    lowest, highest = max_fpr**2 / 2, max_fpr
    return np.where(_one_class(counts), np.nan, (1 + (area - lowest) / (highest - lowest)) / 2)


def eer(counts: Tally) -> Array:
    """Equal error rate (...): FPR where it equals FNR = 1 - TPR, on the ROC's points joined by straight lines (so ties and few samples give
    no jumps; benchmarks that take the nearest point instead differ by up to half a step). nan for one class."""
    fpr, tpr = roc_curve(counts)
    gap = 1 - tpr - fpr  # FNR - FPR, falls from 1 to -1
    after = np.argmax(gap <= 0, axis=-1)[..., None]  # first point at or past the crossing; >= 1 as the curve starts at gap 1
    before = np.maximum(after - 1, 0)
    g0, g1 = np.take_along_axis(gap, before, -1), np.take_along_axis(gap, after, -1)
    f0, f1_ = np.take_along_axis(fpr, before, -1), np.take_along_axis(fpr, after, -1)
    return (f0 + ratio(g0, g0 - g1) * (f1_ - f0))[..., 0]


def average_precision(counts: Tally) -> Array:
    """Average precision (...): sum over falling thresholds of (recall_n - recall_(n-1)) * precision_n, without interpolation; nan for one
    class. Its chance level is the share of fakes, so it can't be compared between sets with different shares."""
    fp, tp = _falling(counts.real), _falling(counts.fake)
    precision = np.where(tp > 0, tp / np.maximum(tp + fp, 1e-300), 0.0)
    area = np.sum(np.diff(tp, axis=-1) * precision[..., 1:], axis=-1)
    return np.where(fp[..., -1] > 0, ratio(area, tp[..., -1]), np.nan)


def tpr_at_fpr(counts: Tally, max_fpr: float) -> Array:
    """TPR (...) of the best threshold whose FPR is at most `max_fpr`: a point one can work at, not an interpolated one; nan for one
    class."""
    fpr, tpr = roc_curve(counts)
    best = np.max(np.where(fpr <= max_fpr, tpr, 0.0), axis=-1)
    return np.where(_one_class(counts), np.nan, best)


def confusion(counts: Tally, *, threshold: float = THRESHOLD) -> Confusion:
    """Confusion matrix; a sample is called fake when its score is strictly above `threshold`."""
    called_fake = counts.scores > threshold  # (U,)
    return Confusion(
        tn=counts.real[..., ~called_fake].sum(-1),
        fp=counts.real[..., called_fake].sum(-1),
        fn=counts.fake[..., ~called_fake].sum(-1),
        tp=counts.fake[..., called_fake].sum(-1),
    )


def accuracy(counts: Tally) -> Array:
    """(TP + TN) / N at `THRESHOLD`; defined for one class, nan for no samples."""
    c = confusion(counts)
    return ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn)


def f1(counts: Tally) -> Array:
    """F1 of the fake class at `THRESHOLD`, 2 TP / (2 TP + FP + FN); nan where nothing is fake and nothing is called fake."""
    c = confusion(counts)
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def brier(counts: Tally) -> Array:
    """Mean squared distance of score and label (...), 0 to 1 (Brier 1950); defined for one class; nan for no samples, and for scores
    outside [0, 1], which are no probabilities."""
    if counts.scores.size and not 0 <= counts.scores[0] <= counts.scores[-1] <= 1:
        return np.full(counts.real.shape[:-1], np.nan)
    lost = counts.real @ counts.scores**2 + counts.fake @ (1 - counts.scores) ** 2
    return ratio(lost, counts.real.sum(-1) + counts.fake.sum(-1))


def ratio(above: Array, below: Array) -> Array:
    """above / below, nan where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


def _one_class(counts: Tally) -> npt.NDArray[np.bool_]:
    return (counts.real.sum(-1) == 0) | (counts.fake.sum(-1) == 0)


def _falling(weights: Array) -> Array:
    """Weight at or above each threshold, thresholds falling, with a leading 0: (..., U) -> (..., U + 1)."""
    total = np.cumsum(weights[..., ::-1], axis=-1)
    return np.concatenate([np.zeros((*total.shape[:-1], 1)), total], axis=-1)
