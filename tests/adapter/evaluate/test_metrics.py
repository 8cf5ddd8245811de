"""The metrics are those that scikit-learn and the papers mean."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from d2st.adapter.evaluate import metrics
from d2st.adapter.evaluate.calibration import BINS, ece, reliability_bins

# few distinct values make ties and duplicates the rule; the floats add near-ties and both signs of zero
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(-1e3, 1e3))
SAMPLES = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=1, max_size=60)
BOTH = SAMPLES.filter(lambda rows: len({label for label, _ in rows}) == 2)
# the edges of the bins too
SHARES = st.one_of(st.sampled_from([0.0, 1 / 15, 0.2, 0.5, 14 / 15, 1.0]), st.floats(0, 1))
SCORED = st.lists(st.tuples(st.integers(0, 1), SHARES), min_size=1, max_size=60)


def split(rows):
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores)


@given(BOTH)
def test_agrees_with_scikit_learn(rows):
    y, s = split(rows)
    counts = metrics.tally(y, s)
    called = s > 0.5
    assert metrics.binary_auc(counts) == pytest.approx(reference.roc_auc_score(y, s), abs=1e-12)
    assert metrics.average_precision(counts) == pytest.approx(reference.average_precision_score(y, s), abs=1e-12)
    assert metrics.accuracy(counts) == pytest.approx(reference.accuracy_score(y, called), abs=1e-12)
    assert metrics.f1(counts) == pytest.approx(reference.f1_score(y, called), abs=1e-12)
    made = metrics.confusion(counts)
    assert [made.tn, made.fp, made.fn, made.tp] == list(reference.confusion_matrix(y, called, labels=[0, 1]).ravel())


@given(BOTH, st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]))
def test_curve_agrees_with_scikit_learn(rows, limit):
    y, s = split(rows)
    fpr, tpr, _ = reference.roc_curve(y, s, drop_intermediate=False)
    ours = metrics.roc_curve(metrics.tally(y, s))
    np.testing.assert_allclose(ours[0], fpr)
    np.testing.assert_allclose(ours[1], tpr)
    assert metrics.tpr_at_fpr(metrics.tally(y, s), limit) == pytest.approx(tpr[fpr <= limit].max())


@given(BOTH, st.sampled_from([0.01, 0.05, 0.1, 0.37, 1.0]))
def test_partial_auc_agrees_with_scikit_learn(rows, limit):
    y, s = split(rows)
    assert metrics.partial_auc(metrics.tally(y, s), limit) == pytest.approx(
        reference.roc_auc_score(y, s, max_fpr=limit), abs=1e-12
    )


@given(SCORED)
def test_brier_and_ece_agree_with_scikit_learn(rows):
    """Of one class alone too: both are means over samples."""
    y, s = split(rows)
    counts = metrics.tally(y, s)
    assert metrics.brier(counts) == pytest.approx(reference.brier_score_loss(y, s, pos_label=1), abs=1e-12)
    share, mean = calibration_curve(y, s, n_bins=BINS)
    used = [made for made in reliability_bins(counts) if made["count"]]
    np.testing.assert_allclose([made["share_fake"] for made in used], share, atol=1e-12)
    np.testing.assert_allclose([made["mean_score"] for made in used], mean, atol=1e-12)
    count = np.array([made["count"] for made in used])
    assert count.sum() == y.size
    assert ece(counts) == pytest.approx(np.sum(count * np.abs(share - mean)) / y.size, abs=1e-12)


@given(BOTH)
def test_duplicates_change_nothing(rows):
    """Every sample twice: counts double, rates stay."""
    y, s = split(rows)
    once, twice = metrics.tally(y, s), metrics.tally(np.tile(y, 2), np.tile(s, 2))
    rates = [metrics.binary_auc, metrics.eer, metrics.average_precision, metrics.accuracy, metrics.brier, ece]
    for rate in [*rates, partial(metrics.partial_auc, max_fpr=0.1), partial(metrics.tpr_at_fpr, max_fpr=0.05)]:
        assert rate(twice) == pytest.approx(float(rate(once)), abs=1e-12, nan_ok=True)


@given(BOTH)
def test_eer_lies_on_the_curve_where_both_errors_are_equal(rows):
    y, s = split(rows)
    rate = float(metrics.eer(metrics.tally(y, s)))
    fpr, tpr, _ = reference.roc_curve(y, s, drop_intermediate=False)
    # the segment that crosses FNR = FPR, found another way: walk it in small steps
    along = np.linspace(0, 1, 2001)
    gaps = [
        np.abs((1 - (a + (b - a) * along)) - (c + (d - c) * along))
        for a, b, c, d in zip(tpr, tpr[1:], fpr, fpr[1:], strict=False)
    ]
    best = min(range(len(gaps)), key=lambda i: gaps[i].min())
    expected = fpr[best] + (fpr[best + 1] - fpr[best]) * along[gaps[best].argmin()]
    assert rate == pytest.approx(expected, abs=2e-3)


@given(BOTH)
def test_auc_and_eer_of_reversed_scores_are_the_complement(rows):
    y, s = split(rows)
    there, back = metrics.tally(y, s), metrics.tally(y, -s)
    assert metrics.binary_auc(there) == pytest.approx(1 - metrics.binary_auc(back), abs=1e-12)
    assert metrics.eer(there) == pytest.approx(1 - metrics.eer(back), abs=1e-12)


def test_known_values():
    y, s = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    counts = metrics.tally(y, s)
    assert metrics.binary_auc(counts) == 0.75
    assert metrics.eer(counts) == 0.5
    assert metrics.average_precision(counts) == pytest.approx(0.8333333333)
    assert metrics.binary_auc(metrics.tally(y, [0.3] * 4)) == 0.5
    assert metrics.eer(metrics.tally(y, [0.3] * 4)) == 0.5
    assert metrics.eer(metrics.tally(y, [0.1, 0.2, 0.3, 0.4])) == 0.0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan_where_two_are_needed(label):
    counts = metrics.tally([label] * 3, [0.2, 0.6, 0.9])
    needs_both = [metrics.binary_auc, metrics.eer, metrics.average_precision]
    needs_both += [partial(metrics.tpr_at_fpr, max_fpr=0.05), partial(metrics.partial_auc, max_fpr=0.1)]
    assert all(np.isnan(metric(counts)) for metric in needs_both)
    assert metrics.accuracy(counts) == pytest.approx([1 / 3, 2 / 3][label])


def test_nothing_at_all_is_nan():
    counts = metrics.tally([], [])
    rates = [metrics.binary_auc, metrics.eer, metrics.average_precision, metrics.accuracy, metrics.f1, metrics.brier, ece]
    for metric in [*rates, partial(metrics.partial_auc, max_fpr=0.1), partial(metrics.tpr_at_fpr, max_fpr=0.05)]:
        assert np.isnan(metric(counts))
    assert {made["count"] for made in reliability_bins(counts)} == {0}


def test_what_is_no_probability_has_no_calibration():
    counts = metrics.tally([0, 1], [-0.2, 0.7])
    assert np.isnan(metrics.brier(counts))
    assert np.isnan(ece(counts))


def test_half_is_called_real():
    made = metrics.confusion(metrics.tally([0, 1, 1], [0.5, 0.5, 0.5000001]))
    assert (made.tn, made.fp, made.fn, made.tp) == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.1, float("nan")], "1 of 2 scores are NaN"),
        ([0, 1], [0.1, float("inf")], "infinite"),
        ([0, 2], [0.1, 0.2], "labels must be 0"),
        ([0, 1], [0.1], "one length"),
    ],
)
def test_refuses_what_has_no_place_in_a_ranking(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.tally(labels, scores)
