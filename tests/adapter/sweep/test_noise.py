"""How much of a lead is noise."""

import numpy as np
import pytest

from d2st.adapter.evaluate.metrics import binary_auc, tally
from d2st.adapter.sweep.noise import lead, seed_deviation


def make_scores(rng, labels, *, skill, seeds):
    return np.stack([labels * skill + rng.normal(size=labels.size) for _ in range(seeds)])


def aucs(scores, labels):
    return [float(binary_auc(tally(labels, row))) for row in scores]


def compared(seed, *, skills, seeds=3, videos=80):
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 2
    made = [make_scores(rng, labels, skill=skill, seeds=seeds) for skill in skills]
    return lead([aucs(scores, labels) for scores in made], made[0], made[1], labels, resamples=200)


def test_a_true_lead_is_told_from_noise():
    found = compared(0, skills=(3.0, 0.5, 0.5))
    assert not found.is_noise
    assert found.interval[0] > 0
    assert found.interval[0] < found.value < found.interval[1]
    assert (found.seeds, found.videos) == (3, 80)


def test_equal_recipes_seldom_seem_to_differ():
    false_alarms = sum(not compared(seed, skills=(1.0, 1.0, 1.0)).is_noise for seed in range(40))
    assert false_alarms <= 5  # 5 % of 40 are two


def test_more_seeds_and_videos_narrow_the_interval():
    few, many = (
        compared(1, skills=(1.5, 1.0, 1.0), seeds=2, videos=40),
        compared(1, skills=(1.5, 1.0, 1.0), seeds=8, videos=400),
    )
    assert many.interval[1] - many.interval[0] < 0.5 * (few.interval[1] - few.interval[0])


def test_the_deviation_over_seeds_is_pooled():
    assert seed_deviation([[0.0, 2.0], [5.0, 5.0]]) == pytest.approx(1.0)  # variances 2 and 0
    assert np.isnan(seed_deviation([[0.5], [0.6]]))


def test_one_video_of_a_class_gives_no_interval():
    labels = np.array([1, 0, 0, 0])
    scores = np.array([[0.9, 0.1, 0.2, 0.3]] * 2)
    found = lead([[0.9, 0.8], [0.7, 0.6]], scores, scores, labels, resamples=50)
    assert np.isnan(found.interval[0])
    assert found.is_noise  # nothing speaks against it
