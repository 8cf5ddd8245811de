"""DeLong's variance in its fast form is that of the definition, and its p-value is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.evaluate.delong import delong_covariance, delong_test
from d2st.adapter.evaluate.metrics import binary_auc, tally

SCORE = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-10, 10))
ROWS = st.lists(st.tuples(st.integers(0, 1), SCORE, SCORE, SCORE), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2
)


def by_definition(y, scores):
    """Structural components by comparing every fake with every real, and their covariances."""
    fake, real = scores[:, y == 1], scores[:, y == 0]
    kernel = (fake[:, :, None] > real[:, None, :]) + 0.5 * (fake[:, :, None] == real[:, None, :])  # (K, n_fake, n_real)
    v10, v01 = kernel.mean(axis=2), kernel.mean(axis=1)
    return kernel.mean(axis=(1, 2)), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


def split(rows):
    y, *scores = zip(*rows, strict=True)
    return np.array(y), np.array(scores)


def normal(count, *, shift=1.0, seed=0, noise=1.0):
    """Labels, and two detectors that see the same signal each with noise of its own."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    signal = rng.normal(size=count) + shift * y
    return y, signal + noise * rng.normal(size=count), signal + noise * rng.normal(size=count)


@given(ROWS)
def test_is_what_the_definition_gives(rows):
    y, scores = split(rows)
    aucs, covariance = delong_covariance(y, scores)
    expected_aucs, expected = by_definition(y, scores)
    np.testing.assert_allclose(aucs, expected_aucs, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    np.testing.assert_allclose(aucs, [float(binary_auc(tally(y, row))) for row in scores], atol=1e-12)
    test = delong_test(y, scores[0], scores[1])
    variance = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    assert test.standard_error**2 == pytest.approx(variance, abs=1e-12)


@given(ROWS)
def test_properties(rows):
    y, scores = split(rows)
    _, covariance = delong_covariance(y, scores)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-15)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    there, back = delong_test(y, scores[0], scores[1]), delong_test(y, scores[1], scores[0])
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.p, nan_ok=True)
    assert np.isnan(there.p) or 0 <= there.p <= 1
    same = delong_test(y, scores[0], np.exp(scores[0] / 10))  # another scale, the same ranking
    assert (same.difference, same.standard_error, same.p) == (0.0, 0.0, 1.0) or len(set(np.exp(scores[0] / 10))) < len(
        set(scores[0])
    )


def test_one_auc_alone_and_what_can_not_be_said():
    y, first, _ = normal(50)
    aucs, covariance = delong_covariance(y, first[None])
    assert covariance.shape == (1, 1)
    assert covariance[0, 0] > 0
    assert np.isnan(delong_covariance([1, 1, 1], np.zeros((2, 3)))[0]).all()
    assert np.isnan(delong_test([0, 0], [0.1, 0.2], [0.2, 0.1]).p)
    aucs, covariance = delong_covariance([0, 1, 1], np.array([[0.1, 0.2, 0.3]]))
    assert aucs[0] == 1.0
    assert np.isnan(covariance).all()
    # perfect against perfectly wrong: no variance to hold the difference against, and no p made up from it
    opposed = delong_test([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3])
    assert opposed.difference == 1.0
    assert np.isnan(opposed.p)
    with pytest.raises(ValueError, match="finite"):
        delong_test([0, 1], [0.1, float("nan")], [0.1, 0.2])
    with pytest.raises(ValueError, match="must be"):
        delong_covariance([0, 1], np.zeros((2, 3)))


def test_standard_error_is_the_spread_over_repeated_data_sets():
    differences, errors = [], []
    for seed in range(300):
        y, first, second = normal(120, seed=seed)
        test = delong_test(y, first, second)
        differences.append(test.difference)
        errors.append(test.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.12)


def test_equal_detectors_are_called_different_as_often_as_the_level_says():
    p = np.array([delong_test(*normal(120, seed=seed)).p for seed in range(400)])
    assert 0.02 < (p < 0.05).mean() < 0.09
    assert 0.4 < np.median(p) < 0.6


@settings(max_examples=20)
@given(ROWS)
def test_order_of_samples_does_not_matter(rows):
    y, scores = split(rows)
    shuffled = np.random.default_rng(0).permutation(y.size)
    first, again = delong_test(y, *scores[:2]), delong_test(y[shuffled], *scores[:2, shuffled])
    assert again.p == pytest.approx(first.p, nan_ok=True)
