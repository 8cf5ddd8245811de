"""How much of the winner's lead is noise.

A validation AUC moves with the seed of the training and with the videos that happened to be in the validation split. Both are put together:
the videos by a paired bootstrap (all recipes meet the same resamples, as in `d2st.adapter.evaluate.paired`), the seeds by Student's t with
the variance pooled over all finalists, as in an analysis of variance; three seeds of one recipe alone would say next to nothing.

The score by which the search found its winner is not used: it is the highest of many, so chance has pushed it up. By how much, the further
seeds tell (Cawley & Talbot, JMLR 2010). What is left of that: the winner is the highest of a few means, so its lead is a little high still.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from d2st.adapter.evaluate.bootstrap import bootstrap_values, central
from d2st.adapter.evaluate.metrics import binary_auc

__all__ = ["Lead", "lead", "seed_deviation"]

DRAWS = 10_000
CHANCE = 0.05  # a lead that chance gives more often than this is no lead


@dataclass(frozen=True)
class Lead:
    """The winner's mean validation AUC over new seeds less the runner-up's.

    Attributes:
        interval: 95 %, from seeds and videos. chance: how probable it is that the runner-up is as good or better.
        seed_sd: how far one AUC moves with the seed, pooled over all finalists. video_sd: how far the lead moves with the videos.
        seeds, videos: how many it rests on.
    """

    value: float
    interval: tuple[float, float]
    chance: float
    seed_sd: float
    video_sd: float
    seeds: int
    videos: int

    @property
    def is_noise(self) -> bool:
        """Whether chance alone explains it."""
        return not self.chance < CHANCE


def lead(
    values: npt.ArrayLike,
    winner: npt.ArrayLike,
    runner_up: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Lead:
    """Compare the two best of M recipes that were trained with the same K new seeds.

    Args:
        values: (M, K) AUCs of all finalists, K at least 2; the first two rows are the winner's and the runner-up's.
        winner, runner_up: (K, N) scores of the N validation videos. labels: (N,) of 0 or 1.

    The interval is nan where a class has fewer than two videos.
    """
    table = np.asarray(values, dtype=np.float64)
    m, k = table.shape
    drawn = [_means(np.asarray(scores, dtype=np.float64), labels, resamples, seed) for scores in (winner, runner_up)]
    by_video = drawn[0] - drawn[1]  # (resamples,)
    deviation = seed_deviation(table)
    rng = np.random.default_rng([seed, 1])
    by_seed = deviation * np.sqrt(2 / k) * rng.standard_t(m * (k - 1), size=DRAWS)
    both = rng.choice(by_video, size=DRAWS) + by_seed
    known = bool(np.isfinite(both).all())
    return Lead(
        value=float(table[0].mean() - table[1].mean()),
        interval=central(both, confidence=0.95) if known else (float("nan"), float("nan")),
        chance=float((both <= 0).mean()) if known else float("nan"),
        seed_sd=deviation,
        video_sd=float(by_video.std()),
        seeds=k,
        videos=int(np.asarray(labels).size),
    )


def seed_deviation(values: npt.ArrayLike) -> float:
    """Standard deviation over seeds of (M, K) values, pooled over the M recipes; nan with one seed."""
    table = np.asarray(values, dtype=np.float64)
    if table.shape[1] < 2:
        return float("nan")
    return float(np.sqrt(table.var(axis=1, ddof=1).mean()))


def _means(scores: npt.NDArray[np.float64], labels: npt.ArrayLike, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """The mean AUC over seeds on each resample, (resamples,)."""
    groups = np.arange(scores.shape[1])
    rows = [bootstrap_values(labels, row, groups, {"auc": binary_auc}, resamples=resamples, seed=seed)["auc"] for row in scores]
    return np.mean(rows, axis=0)
