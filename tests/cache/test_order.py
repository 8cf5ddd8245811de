"""Epoch orders: permutations that depend on nothing but their arguments, shared out fairly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.order import epoch_order


@given(count=st.integers(0, 300), seed=st.integers(0, 2**64), epoch=st.integers(0, 1000), ranks=st.integers(1, 9))
def test_ranks_share_a_permutation(count, seed, epoch, ranks):
    whole = epoch_order(count, seed=seed, epoch=epoch)
    assert sorted(whole.tolist()) == list(range(count))
    parts = [epoch_order(count, seed=seed, epoch=epoch, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {-(-count // ranks)}
    together = np.stack(parts, axis=1).reshape(-1)  # in the order of time
    np.testing.assert_array_equal(together[:count], whole)
    np.testing.assert_array_equal(together[count:], np.resize(whole, len(together))[count:])
    assert len(together) - count < ranks


@given(count=st.integers(1, 200), ranks=st.integers(1, 4), start=st.integers(0, 250))
def test_start_goes_on_where_it_stopped(count, ranks, start):
    part = epoch_order(count, seed=3, epoch=1, rank=ranks - 1, ranks=ranks)
    np.testing.assert_array_equal(epoch_order(count, seed=3, epoch=1, rank=ranks - 1, ranks=ranks, start=start), part[start:])


def test_seeds_and_epochs_differ_and_the_order_never_changes():
    orders = [tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert epoch_order(12, seed=1, epoch=2).tolist() == REFERENCE  # a resumed run of a later version goes on in the same order


REFERENCE = [10, 4, 9, 7, 1, 6, 3, 11, 5, 8, 2, 0]


def test_every_position_is_equally_likely():
    firsts = np.array([epoch_order(5, seed=0, epoch=epoch)[0] for epoch in range(2000)])
    assert (np.abs(np.bincount(firsts, minlength=5) - 400) < 90).all()


@pytest.mark.parametrize("wrong", [{"rank": 2, "ranks": 2}, {"rank": -1}, {"start": -1}, {"epoch": -1}, {"ranks": 0}])
def test_impossible_parts_are_refused(wrong):
    with pytest.raises(ValueError, match="no such part"):
        epoch_order(4, **{"seed": 0, "epoch": 0, **wrong})
