"""Fits an adapter's whitening to the training split, before the first step: half a second, against the epochs that it saves.

It is fitted once, where a run starts from scratch; later stages take it over with the weights, which mean nothing without it.
"""

from collections.abc import Mapping
from math import gcd

import numpy as np
from torch import Tensor, nn

from d2st.adapter.nets.read import PatchRead
from d2st.adapter.train.select import Rows
from d2st.cache import Request, TokenLoader

__all__ = ["fit_whitening"]

SAMPLES = 512  # one frame of each
TOKENS_A_FRAME = 64


def fit_whitening(adapter: nn.Module, source: TokenLoader, rows: Rows, *, seed: int) -> None:
    """Set the whitening of each `PatchRead` in `adapter.whitened` (layer -> module) by the correlation of its channels over one
    frame of up to 512 training samples, drawn by `seed`. An adapter without the attribute is left as it is."""
    reads: Mapping[str, PatchRead] = getattr(adapter, "whitened", {})
    if not reads:
        return
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(rows.ids))[:SAMPLES]
    frames = np.sort(rows.start[chosen] + generator.integers(0, rows.frames[chosen]))  # (N,)
    moments: dict[str, Tensor] = {}
    for batch in source.stream(Request(part[:, None]) for part in np.array_split(frames, -(-len(frames) // 32))):
        for layer, read in reads.items():
            height, width = batch.tokens[layer].shape[2:4]
            tokens = batch.tokens[layer].flatten(0, 3)  # (B*H*W, C)
            standard = read.channel_norm(tokens[:: _step(height, width)]).double()
            moments[layer] = moments.get(layer, 0) + standard.T @ standard  # (C,C)
    for layer, read in reads.items():
        read.set_whitening(_correlation(moments[layer]))


def _step(height: int, width: int) -> int:
    """Of what tokens to take each so many-th; without a factor in common with the width, or it would see the same columns of each row."""
    return next(step for step in range(height * width // TOKENS_A_FRAME | 1, 0, -1) if gcd(step, width) == 1)


def _correlation(moment: Tensor) -> Tensor:
    """A second-moment matrix (C,C) scaled to a unit diagonal; channels that never move are left alone."""
    scale = moment.diagonal().clamp(min=1e-12).rsqrt()
    correlation = moment * scale[:, None] * scale
    return correlation.fill_diagonal_(1.0)
