"""Thresholds keep their word on validation, whatever was rounded or thinned away, and say what could not be measured."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2st.adapter.evaluate.calibration import fit_temperature
from d2st.adapter.evaluate.operating import KEPT, Operating, operating_points
from d2st.cache.errors import ConfigError

KIND = pl.Enum(["image", "video", "frames"])
logit_lists = st.lists(st.floats(-30, 30, allow_subnormal=False), min_size=1, max_size=40)


def validation(real, fake, *, kind="video", name="v"):
    """One sample a group."""
    values = [*real, *fake]
    return pl.DataFrame(
        {
            "video_id": [f"{name}{k}" for k in range(len(values))],
            "kind": pl.Series([kind] * len(values), dtype=KIND),
            "label": [0] * len(real) + [1] * len(fake),
            "logit": np.array(values, dtype=float),
        }
    )


def operating(*tables):
    return Operating(json.loads(json.dumps(operating_points(pl.concat(tables)))))  # as it comes out of a checkpoint


def share_above(values, cut):
    return np.mean(np.asarray(values, dtype=float) > cut)


@settings(max_examples=60, deadline=None)
@given(logit_lists, logit_lists, st.floats(0.001, 0.999), st.floats(0.001, 0.999))
@example([0.0, 1e-5], [1.0], 0.5, 0.5)
def test_validation_fpr_is_never_above_the_asked_one(real, fake, one, other):
    low, high = sorted((one, other))
    found = operating(validation(real, fake))
    strict, loose = found.threshold("video", low), found.threshold("video", high)
    for fpr, at in ((low, strict), (high, loose)):
        assert share_above(real, at.logit) <= at.fpr <= fpr
        assert share_above(fake, at.logit) >= at.tpr
    assert strict.logit >= loose.logit  # monotone
    # the lowest such threshold: a step below the next lower real logit, one more real is called fake than is allowed
    below = [value for value in real if value < strict.logit - 2e-6]
    if below:
        assert share_above(real, max(below) - 1e-5) > low


@settings(max_examples=40, deadline=None)
@given(logit_lists, logit_lists)
def test_the_default_balances_both_errors(real, fake):
    at = operating(validation(real, fake)).threshold("video")
    gap = abs(at.fpr - (1 - at.tpr))
    for cut in np.unique(np.round([*real, *fake], 3)) + 5e-4:
        assert gap <= abs(share_above(real, cut) - 1 + share_above(fake, cut)) + 2 / min(len(real), len(fake)) + 1e-9
    assert at.note is None


def test_classes_that_lie_apart_are_cut_in_the_middle():
    at = operating(validation([-2.0, -1.0], [3.0, 5.0])).threshold("video")
    assert (at.logit, at.fpr, at.tpr, at.n_real, at.n_fake) == (pytest.approx(1.0, abs=1e-3), 0.0, 1.0, 2, 2)


def test_a_rate_that_can_not_be_measured_is_told():
    at = operating(validation([0.0, 1.0, 2.0], [1.5, 3.0])).threshold("video", 0.01)
    assert (at.logit, at.fpr, at.tpr) == (2.0, 0.0, 0.5)
    assert "3 real videos" in at.note
    assert operating(validation([0.0, 1.0, 2.0], [1.5, 3.0])).threshold("video", 0.34).note is None


def test_groups_count_once():
    """Three samples of one video are one group with the mean of their logits."""
    table = validation([0.0, 3.0, 6.0, -1.0], [5.0]).with_columns(video_id=pl.Series(["a", "a", "a", "b", "c"]))
    assert operating_points(table)["video"]["real"] == [-1.0, 3.0]


def test_many_groups_are_thinned_against_the_detector():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=9_999), rng.normal(2, size=7_001)
    made = operating_points(validation(real, fake))["video"]
    assert (len(made["real"]), len(made["fake"]), made["n_real"], made["n_fake"]) == (KEPT, KEPT, 9_999, 7_001)
    assert len(json.dumps(made)) < 60_000
    for fpr in (0.0007, 0.01, 0.2):
        at = Operating({"video": made}).threshold("video", fpr)
        assert fpr - 2 / KEPT <= share_above(real, at.logit) <= fpr
        assert at.tpr <= share_above(fake, at.logit) <= at.tpr + 2 / KEPT


def test_kinds_have_thresholds_of_their_own():
    found = operating(validation([0.0], [2.0]), validation([10.0], [12.0], kind="image", name="i"))
    assert found.threshold("frames").logit == pytest.approx(1, abs=1e-3)
    assert found.threshold("image").logit == pytest.approx(11, abs=1e-3)


def test_a_kind_of_one_class_falls_back_on_all():
    found = operating(validation([0.0, 1.0], [0.5, 2.0]), validation([], [5.0], kind="image", name="i"))
    at = found.threshold("image")
    assert at.n_fake == 3
    assert "lacks real or fake images" in at.note
    assert found.temperature("image") == operating_points(validation([0.0, 1.0], [0.5, 2.0, 5.0]))["all"]["temperature"]


def test_nothing_known_is_the_raw_score():
    found = Operating({})
    assert found.probability("video", 1.0) == pytest.approx(1 / (1 + np.exp(-1)))
    assert (found.threshold("video").logit, found.known("video")) == (0.0, False)
    assert operating(validation([0.0], [])).known("video") is False
    with pytest.raises(ConfigError, match="knows no validation scores"):
        found.threshold("video", 0.01)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        operating(validation([0.0], [1.0])).threshold("video", 1.0)


def test_probability_is_the_calibrated_one():
    real, fake = [-1.0, 0.5, 2.0, -0.3], [1.0, -0.5, 3.0, 0.4]
    found = operating(validation(real, fake))
    temperature = fit_temperature([0] * 4 + [1] * 4, real + fake)
    assert found.temperature("video") == temperature
    assert found.probability("video", 2.0) == pytest.approx(1 / (1 + np.exp(-2 / temperature)))
    assert found.probability("video", -1e9) == 0.0
    apart = operating_points(validation([-1.0], [1.0]))["video"]
    assert apart["temperature"] is None
    assert "logit 0" in apart["reason"]
