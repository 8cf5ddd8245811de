"""Newton's logistic regression against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from d2st.adapter.evaluate.logistic import fit_logistic


@given(st.integers(4, 60), st.integers(1, 20), st.sampled_from([0.01, 1.0, 30.0]), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_same_minimum_as_scikit_learn(count, channels, l2, seed):
    rng = np.random.default_rng(seed)
    x, y, weight = rng.normal(size=(count, channels)), np.arange(count) % 2, rng.uniform(0.2, 3, count)
    x[:, 0] += y * rng.uniform(0, 3)
    w, b = fit_logistic(x, y, weight, l2=l2)
    known = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(w, known.coef_[0], atol=1e-4)
    assert b == pytest.approx(known.intercept_[0], abs=1e-4)


def test_separable_by_far_and_more_channels_than_samples():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 200)) + 1000.0 * (2 * y[:, None] - 1)
    w, b = fit_logistic(x, y, np.ones(40))
    assert np.isfinite(w).all()
    assert np.isfinite(b)
    assert (((x @ w + b) > 0) == (y == 1)).all()


def test_a_channel_that_says_nothing_gets_nothing():
    x, y = np.zeros((10, 2)), np.array([0, 1] * 5)
    w, b = fit_logistic(x, y, np.where(y == 1, 3.0, 1.0))
    assert np.allclose(w, 0)
    assert b == pytest.approx(np.log(3), abs=1e-5)
