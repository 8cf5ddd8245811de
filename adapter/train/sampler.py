"""What each step of an epoch reads: a pure function of (seed, epoch, rows), so a run can go on at any step of any epoch.

Balance comes from quotas rather than independent draws: each stratum goes round its own shuffled samples until its quota is full, so that a
sample is shown floor or ceil of its share of times. Independent draws with replacement would miss 37 % of the samples in an epoch.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from d2st.adapter.rows import PADDING
from d2st.adapter.train.clips import clip_batch, frame_batch
from d2st.adapter.train.ranks import Ranks, own_part
from d2st.adapter.train.recipe import Augment
from d2st.adapter.train.seeds import CLIPS, ORDER, VIEWS, step_rng
from d2st.adapter.train.select import Rows
from d2st.cache import Request

__all__ = ["Step", "draw", "epoch_requests", "epoch_steps"]

# A step is a list of passes (forward and backward); a pass holds the positions in `Rows` of one batch, or of an image and a clip batch.
Step = list[tuple[np.ndarray, ...]]


def draw(rows: Rows, among: np.ndarray, draws: int, *, balance: str, rng: np.random.Generator) -> np.ndarray:
    """Choose `draws` of the positions `among`, shuffled.

    Args:
        among: (M,) positions in `rows`.
        balance: "label" shows both labels equally often within each kind, and kinds in their shares; a kind with one label alone is made
            up for by the other kind. "none" shows samples as they come.
    """
    strata = rows.is_video[among] * 2 + rows.label[among]
    names, counts = np.unique(strata, return_counts=True)
    weights = counts / counts.sum()
    if balance == "label":
        kind, label = names // 2, names % 2
        weights = np.array([weights[kind == k].sum() / (kind == k).sum() for k in kind])  # equal labels within a kind
        weights = weights / np.array([weights[label == one].sum() for one in label]) / len(np.unique(label))  # and over all
    quotas = _round_to_sum(weights * draws, draws)
    return rng.permutation(
        np.concatenate([_go_round(among[strata == n], int(q), rng) for n, q in zip(names, quotas, strict=True)])
    )


def epoch_steps(rows: Rows, *, stage: int, batch_size: int, accumulate: int, balance: str, seed: int, epoch: int) -> list[Step]:
    """The samples of every step of one epoch.

    Stages 1 and 2 draw as many samples as there are. Stage 3 draws as many clips as there are videos, and as many images.
    Batches of an epoch differ in size by one at most, and steps by one batch: no sample of a small last one weighs more. Their numbers
    are the same in every epoch.
    """
    rng = step_rng(seed, epoch, 0, ORDER)
    if stage == 3:
        videos = np.flatnonzero(rows.is_video)
        orders = [
            draw(rows, among, len(videos), balance=balance, rng=rng) for among in (np.flatnonzero(~rows.is_video), videos)
        ]
    else:
        orders = [draw(rows, np.arange(len(rows.ids)), len(rows.ids), balance=balance, rng=rng)]
    count = -(-len(orders[0]) // batch_size)
    passes = list(zip(*(np.array_split(order, count) for order in orders), strict=True))
    ends = [int(part[-1]) + 1 for part in np.array_split(np.arange(count), -(-count // accumulate))]
    return [passes[begin:end] for begin, end in pairwise([0, *ends])]


def epoch_requests(
    rows: Rows,
    steps: Sequence[Step],
    *,
    stage: int,
    clip_frames: int,
    augment: Augment,
    seed: int,
    epoch: int,
    first_step: int = 0,
    ranks: Ranks = Ranks(),  # noqa: B008, frozen
    views: int = 1,
    stride: int = 0,
) -> Iterator[Request]:
    """What to read for `steps[first_step:]`, in order: a request for each batch, tagged with its positions in `rows`.

    Each clip is read from one of `views` views, drawn uniformly: row r of view v is r + v * stride.

    Of several ranks each reads its own part of every batch, cut after all random numbers of the whole batch were drawn.
    """
    for number in range(first_step, len(steps)):
        rng = step_rng(seed, epoch, number, CLIPS)
        luck = step_rng(seed, epoch, number, VIEWS) if views > 1 else None
        for picks in steps[number]:
            for i, pick in enumerate(picks):
                start, frames = rows.start[pick], rows.frames[pick]
                if stage == 1 or len(picks) > i + 1:  # stage 3's first batch is images
                    wanted = frame_batch(start, frames, rng=rng)
                else:
                    wanted = clip_batch(
                        start,
                        frames,
                        clip_frames,
                        rng=rng,
                        jitter=augment.jitter,
                        reverse=augment.reverse,
                        frame_drop=augment.frame_drop,
                    )
                if luck is not None:
                    view = luck.integers(0, views, len(pick))  # (B,)
                    wanted = np.where(wanted == PADDING, PADDING, wanted + view[:, None] * stride)  # (B, T)
                part = own_part(ranks, len(pick))
                yield Request(rows=wanted[part], tag=pick[part])


def _go_round(among: np.ndarray, quota: int, rng: np.random.Generator) -> np.ndarray:
    rounds = -(-quota // len(among))
    return np.concatenate([rng.permutation(among) for _ in range(rounds)] or [among[:0]])[:quota]


def _round_to_sum(values: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `values` whose sum is `total`: the largest remainders are rounded up."""
    floors = np.floor(values).astype(np.int64)
    floors[np.argsort(floors - values, kind="stable")[: total - int(floors.sum())]] += 1
    return floors
