"""The order of an epoch: a pure function of (seed, epoch, count), so that a run can go on in mid-epoch and on another number of machines.

Random keys are sorted rather than a list shuffled: NumPy promises the raw stream of a bit generator for ever, but not what `permutation`
makes of it.
"""

import numpy as np

__all__ = ["epoch_order"]


def epoch_order(count: int, *, seed: int, epoch: int, rank: int = 0, ranks: int = 1, start: int = 0) -> np.ndarray:
    """What one rank shows in one epoch: positions (n,) int64 among `count` samples.

    Rank r takes each `ranks`-th position of the same permutation, from r on. All ranks get ceil(count / ranks) positions, so that none
    waits for a batch that another lacks; every sample is shown, and where `ranks` does not divide `count`, the first ones fill up the end.

    Args:
        seed, epoch: not negative.
        start: how many positions of this rank's part are done already.

    Raises:
        ValueError: a number is out of its range.
    """
    if min(count, seed, epoch, start) < 0 or not 0 <= rank < ranks:
        raise ValueError(f"no such part of an epoch: {count=}, {seed=}, {epoch=}, {rank=}, {ranks=}, {start=}")
    keys = np.random.Philox(np.random.SeedSequence([seed, epoch, count])).random_raw(count)
    order = np.argsort(keys, kind="stable")
    length = -(-count // ranks)
    return np.resize(order, length * ranks)[rank::ranks][start:]
