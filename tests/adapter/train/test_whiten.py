"""Whitening is fitted to training rows alone, is a function of the seed, and travels from stage to stage."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from d2st.adapter.nets.conditioning import whitening_matrix
from d2st.adapter.nets.read import PatchRead
from d2st.adapter.train.select import Rows
from d2st.adapter.train.whiten import _step, fit_whitening
from d2st.cache import Batch

CHANNELS = 4


class Source:
    """Maps of (1,2,CHANNELS) for any row, and a list of the rows that were read."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.maps = torch.randn(100, 2, 2, CHANNELS, generator=generator) @ torch.randn(CHANNELS, CHANNELS, generator=generator)
        self.read: list[int] = []

    def stream(self, requests):
        for request in requests:
            self.read += request.rows.flatten().tolist()
            tokens = self.maps[torch.from_numpy(request.rows)]  # (B,1,2,2,C)
            yield Batch({"a": tokens}, {}, torch.from_numpy(request.rows >= 0), None)


def rows(count: int) -> Rows:
    starts = np.arange(count, dtype=np.int64) * 2
    return Rows(tuple(map(str, starts)), starts, np.full(count, 2, np.int64), starts % 2, np.ones(count, bool))


def whitened(seed: int, count: int = 40) -> tuple[torch.Tensor, Source]:
    source = Source()
    read = PatchRead(torch.zeros(CHANNELS), torch.ones(CHANNELS), 8, motion_width=8)
    fit_whitening(SimpleNamespace(whitened={"a": read}), source, rows(count), seed=seed)
    return read.whitening, source


def test_it_reads_one_frame_of_each_training_sample_and_nothing_else() -> None:
    _, source = whitened(0)
    assert sorted(row // 2 for row in source.read) == list(range(40))


def test_the_seed_decides() -> None:
    assert torch.equal(whitened(3)[0], whitened(3)[0])
    assert not torch.equal(whitened(3)[0], whitened(4)[0])


def test_it_sees_all_columns_of_a_grid() -> None:
    for side in range(1, 65):
        step = _step(side, side)
        frames = np.arange(0, 32 * side * side, step)
        assert len(np.unique(frames % side)) == side
        assert len(frames) >= 32 * min(side * side, 64) * 0.75
    assert [_step(side, side) for side in (7, 14, 16, 21, 24)] == [1, 3, 5, 5, 7]


def test_it_is_the_whitening_of_what_was_read() -> None:
    matrix, source = whitened(0)
    tokens = source.maps[source.read].reshape(-1, CHANNELS).double()
    moment = tokens.T @ tokens
    scale = moment.diagonal().rsqrt()
    torch.testing.assert_close(matrix, whitening_matrix(moment * scale[:, None] * scale).float())


def test_an_adapter_without_whitening_is_left_alone() -> None:
    source = Source()
    fit_whitening(nn.Linear(2, 2), source, rows(4), seed=0)
    assert source.read == []
