"""Differences between detectors come from the same resamples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.adapter.evaluate.bootstrap import bootstrap_intervals, bootstrap_values
from d2st.adapter.evaluate.delong import delong_test
from d2st.adapter.evaluate.metrics import binary_auc
from d2st.adapter.evaluate.paired import holm, paired_differences
from d2st.adapter.evaluate.summary import ESTIMATES


def detectors(count=200, *, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    signal = rng.normal(size=count) + 1.2 * y
    return y, 1 / (1 + np.exp(-np.stack([signal, signal + noise * rng.normal(size=count), rng.normal(size=count)])))


def test_the_resamples_are_the_same_ones():
    y, scores = detectors()
    groups = np.arange(y.size) // 4  # videos of two classes each, in an order of their own
    found = paired_differences(y, scores, groups, binary_auc, resamples=100, seed=5)
    drawn = [bootstrap_values(y, row, groups, {"auc": binary_auc}, resamples=100, seed=5)["auc"] for row in scores]
    assert found[1].difference_interval == pytest.approx(tuple(np.quantile(drawn[1] - drawn[0], [0.025, 0.975])))
    assert found[1].interval == bootstrap_intervals(y, scores[1], groups, {"auc": binary_auc}, resamples=100, seed=5)["auc"]
    assert found[0].difference == 0
    assert found[0].difference_interval == (0, 0)


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_same_detector_twice_does_not_differ(name):
    y, scores = detectors(60)
    twice = paired_differences(y, [scores[0], scores[0]], np.arange(y.size), ESTIMATES[name], resamples=50)[1]
    assert (twice.difference, twice.difference_interval) == (0.0, (0.0, 0.0))


def test_pairing_narrows_and_a_real_difference_is_found():
    y, scores = detectors()
    alike, worse = paired_differences(y, scores, np.arange(y.size), binary_auc)[1:]
    width = alike.interval[1] - alike.interval[0]
    assert alike.difference_interval[1] - alike.difference_interval[0] < width / 2
    assert alike.difference_interval[0] < 0 < alike.difference_interval[1] or abs(alike.difference) < 0.03
    assert worse.difference_interval[1] < 0
    # and it is about as wide as DeLong says
    test = delong_test(y, scores[2], scores[0])
    assert worse.difference_interval[1] - worse.difference_interval[0] == pytest.approx(3.92 * test.standard_error, rel=0.15)


def test_undefined_is_nan():
    one_class = paired_differences([1, 1, 1], [[0.1, 0.2, 0.3]] * 2, [0, 1, 2], binary_auc, resamples=10)[1]
    assert np.isnan([one_class.value, one_class.difference, *one_class.interval, *one_class.difference_interval]).all()


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    corrected = holm([0.01, float("nan"), 0.02])
    assert corrected[0] == 0.02  # two tests, not three
    assert np.isnan(corrected[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p):
    for raw, corrected in zip(p, holm(p), strict=True):
        assert raw <= corrected <= min(1.0, raw * len(p))
    assert [x for _, x in sorted(zip(p, holm(p), strict=True))] == sorted(holm(p))
