"""Intervals that mean what they say: over videos, repeatable, of the right width, quickly."""

import time

import numpy as np
import pytest
from scipy.stats import norm

from d2st.adapter.evaluate.bootstrap import bootstrap_intervals
from d2st.adapter.evaluate.metrics import binary_auc, tally
from d2st.adapter.evaluate.summary import ESTIMATES as ALL


def videos(count, *, frames=1, shift=1.0, seed=0, spread=0.0):
    """Labels, scores and groups: `frames` near copies of each video's score."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    scores = rng.normal(size=count) + shift * labels
    logits = np.repeat(scores, frames) + spread * rng.normal(size=count * frames)
    return np.repeat(labels, frames), 1 / (1 + np.exp(-logits)), np.repeat(np.arange(count), frames)


def test_a_resample_is_what_repeating_the_samples_would_give():
    """The weights of one resample against the metrics of the samples written out again and again."""
    labels, scores, groups = videos(30, frames=3, spread=0.3)
    scores = np.round(scores, 2)  # ties
    seen = {}
    spies = {name: lambda counts, name=name: seen.setdefault(name, (counts, ALL[name](counts)))[1] for name in ALL}
    bootstrap_intervals(labels, scores, groups, spies, resamples=7)
    for name, (counts, values) in seen.items():
        assert values.shape == (7,)
        for row in range(7):
            y = np.concatenate([np.zeros(int(counts.real[row].sum())), np.ones(int(counts.fake[row].sum()))])
            s = np.concatenate([np.repeat(counts.scores, part[row].astype(int)) for part in (counts.real, counts.fake)])
            assert values[row] == pytest.approx(float(ALL[name](tally(y, s))), abs=1e-12)
    # as many videos of each class as there were, whole
    counts = seen["auc"][0]
    assert (counts.real.sum(-1) == 45).all()
    assert (counts.fake.sum(-1) == 45).all()


def test_covers_the_true_auc_about_as_often_as_it_says():
    truth = norm.cdf(1 / np.sqrt(2))
    inside = 0
    for seed in range(200):
        low, high = bootstrap_intervals(*videos(80, seed=seed), {"auc": binary_auc}, resamples=300)["auc"]
        inside += low <= truth <= high
    assert 0.89 <= inside / 200 <= 0.985


def test_frames_of_a_video_do_not_narrow_the_interval():
    alone = bootstrap_intervals(*videos(100), {"auc": binary_auc})["auc"]
    copies = bootstrap_intervals(*videos(100, frames=16), {"auc": binary_auc})["auc"]
    assert copies == pytest.approx(alone)


def test_same_seed_same_interval_and_the_order_of_samples_does_not_matter():
    labels, scores, groups = videos(60, frames=2, spread=0.2)
    first = bootstrap_intervals(labels, scores, groups, ALL, seed=3, resamples=200)
    assert first == bootstrap_intervals(labels, scores, groups, ALL, seed=3, resamples=200)
    shuffled = np.random.default_rng(1).permutation(labels.size)
    again = bootstrap_intervals(labels[shuffled], scores[shuffled], groups[shuffled], ALL, seed=3, resamples=200)
    assert again == {name: pytest.approx(interval, abs=1e-12) for name, interval in first.items()}
    assert first["auc"] != bootstrap_intervals(labels, scores, groups, ALL, seed=4, resamples=200)["auc"]


def test_one_video_of_a_class_has_no_interval():
    result = bootstrap_intervals([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], ["a", "b", "c", "c"], {"auc": binary_auc})
    assert np.isnan(result["auc"]).all()
    assert np.isnan(bootstrap_intervals([], [], [], {"auc": binary_auc})["auc"]).all()


def test_memory_limit_does_not_change_the_interval(monkeypatch):
    from d2st.adapter.evaluate import bootstrap

    whole = bootstrap_intervals(*videos(60), ALL, resamples=100)
    monkeypatch.setattr(bootstrap, "CHUNK_WEIGHTS", 7 * 60)  # 7 resamples at a time
    cut = bootstrap_intervals(*videos(60), ALL, resamples=100)
    assert cut == whole


def test_a_thousand_resamples_of_500_videos_take_less_than_a_second():
    data = videos(500)
    begin = time.process_time()  # what others do on the machine does not count
    low, high = bootstrap_intervals(*data, {"auc": binary_auc}, resamples=1000)["auc"]
    assert time.process_time() - begin < 1.0
    assert low < binary_auc(tally(data[0], data[1])) < high
