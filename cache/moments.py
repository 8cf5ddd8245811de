"""Running mean and variance of every channel, gathered while a shard is written, so that training never pays a pass for them.

Partial results are merged by the pairwise update of Chan, Golub and LeVeque (1983):

    delta = mean_b - mean_a,  mean = mean_a + delta * n_b / n,  M2 = M2_a + M2_b + delta^2 * n_a * n_b / n

Only frames of the training split are counted: conditioning by test statistics would leak.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Moments", "merge", "moments_of"]


@dataclass(frozen=True)
class Moments:
    """Count, mean (C,) and M2 = sum of squared deviations (C,), float64."""

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation (C,)."""
        return np.sqrt(self.m2 / max(self.count, 1))


def moments_of(values: np.ndarray) -> Moments:
    """Moments over all axes of `values` (..., C) but the last; computed in blocks of float32, summed in float64."""
    flat = values.reshape(-1, values.shape[-1])  # (n, C)
    total = Moments(0, np.zeros(flat.shape[1]), np.zeros(flat.shape[1]))
    for begin in range(0, len(flat), 16384):
        block = flat[begin : begin + 16384].astype(np.float32)
        mean = block.mean(axis=0, dtype=np.float64)
        block -= mean.astype(np.float32)
        correction = block.mean(axis=0, dtype=np.float64)  # what rounding the mean to float32 left
        m2 = np.einsum("nc,nc->c", block, block, dtype=np.float64) - len(block) * correction**2
        total = merge(total, Moments(len(block), mean, np.maximum(m2, 0.0)))
    return total


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both samples together."""
    n = a.count + b.count
    if n == 0:
        return a
    delta = b.mean - a.mean
    return Moments(n, a.mean + delta * (b.count / n), a.m2 + b.m2 + delta**2 * (a.count * b.count / n))
