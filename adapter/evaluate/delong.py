"""Variance and covariance of AUCs of the same samples, and whether two of them differ (DeLong, DeLong & Clarke-Pearson, Biometrics 1988).

An AUC is a mean over all pairs of a fake and a real; its variance follows from how much each single sample contributes (its structural
component). In the fast form of Sun & Xu (IEEE Signal Processing Letters 2014) the components come from ranks: O(N log N), where the
definition takes n_real * n_fake comparisons. Samples must be independent: rows are videos, never frames.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from d2st.adapter.evaluate.metrics import Array

__all__ = ["Comparison", "delong_covariance", "delong_test"]


@dataclass(frozen=True)
class Comparison:
    """Two AUCs of the same samples: `difference` is first - second, `z` its size in standard errors, `p` two-sided.

    p is 1 for the same ranking twice, and nan, as z is, where the difference has no variance to be held against.
    """

    first: float
    second: float
    difference: float
    standard_error: float
    z: float
    p: float


def delong_covariance(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Array, Array]:
    """AUCs (K,) and their covariance (K, K), of K detectors on the same N samples.

    Args:
        labels: (N,) of 0 or 1. scores: (K, N), finite.

    The AUCs are nan for one class; the covariance is nan where a class has fewer than two samples.
    """
    below, above = _components(labels, scores)
    n_fake, n_real = below.shape[1], above.shape[1]
    aucs = below.sum(axis=1) / (n_fake * n_real) if n_fake and n_real else np.full(len(below), np.nan)
    if min(n_fake, n_real) < 2:
        return aucs, np.full((len(aucs), len(aucs)), np.nan)
    return aucs, np.atleast_2d(np.cov(below / n_real)) / n_fake + np.atleast_2d(np.cov(above / n_fake)) / n_real


def delong_test(labels: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> Comparison:
    """Compare the AUCs of two detectors, scores (N,) each, on the same samples (N,)."""
    below, above = _components(labels, np.stack([np.asarray(first), np.asarray(second)]))
    n_fake, n_real = below.shape[1], above.shape[1]
    if not n_fake or not n_real:
        return Comparison(*[math.nan] * 6)
    one, two = (float(total) / (n_fake * n_real) for total in below.sum(axis=1))
    if min(n_fake, n_real) < 2:
        return Comparison(one, two, one - two, math.nan, math.nan, math.nan)
    # the variance of the difference, from the differences of counts: exactly 0 where all samples differ alike
    spread = [float(np.var(part[0] - part[1], ddof=1)) for part in (below, above)]
    error = math.sqrt(spread[0] / (n_real**2 * n_fake) + spread[1] / (n_fake**2 * n_real))
    if not error:
        return Comparison(one, two, one - two, 0.0, math.nan, 1.0 if one == two else math.nan)
    z = (one - two) / error
    return Comparison(one, two, one - two, error, z, math.erfc(abs(z) / math.sqrt(2)))


def _components(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Array, Array]:
    """Structural components as counts: for each fake the reals below it (K, n_fake), for each real the fakes above it (K, n_real); a tie
    is half. Zeros where a class is missing."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or y.shape != s.shape[1:]:
        raise ValueError(f"scores must be (K, N) and labels (N,), got shapes {s.shape} and {y.shape}")
    if not np.isin(y, (0, 1)).all() or not np.isfinite(s).all():
        raise ValueError("labels must be 0 (real) or 1 (fake), and scores finite")
    fakes, reals = s[:, y == 1], s[:, y == 0]
    n_fake, n_real = fakes.shape[1], reals.shape[1]
    if not n_fake or not n_real:
        return np.zeros((len(s), n_fake)), np.zeros((len(s), n_real))
    everything = np.apply_along_axis(_midranks, 1, np.concatenate([fakes, reals], axis=1))  # (K, n_fake + n_real)
    # a fake's rank among all less its rank among fakes is how many reals lie below it
    below = everything[:, :n_fake] - np.apply_along_axis(_midranks, 1, fakes)
    above = n_fake - (everything[:, n_fake:] - np.apply_along_axis(_midranks, 1, reals))
    return below, above


def _midranks(values: Array) -> Array:
    """Ranks from 1 (N,), equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
