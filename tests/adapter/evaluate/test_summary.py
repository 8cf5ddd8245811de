"""The numbers of a report: grouped by video_id and nothing else, each manipulation against its own reals, null with a reason."""

import json

import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from d2st.adapter.evaluate.summary import ESTIMATES, summarise
from d2st.cache.errors import ManifestError

ROWS = [
    ("a", "real", "video", "r1", [0.1, 0.2]),
    ("a", "real", "video", "r2", [0.6, 0.6]),
    ("a", "blend", "video", "b1", [0.9, 0.8]),
    ("a", "blend", "frames", "b2", [0.5, 0.3]),
    ("a", "flicker", "video", "f1", [0.7]),
    ("a", "flicker", "video", "f2", [0.12, 0.12]),
    ("a", "real", "image", "ir1", [0.3]),
    ("a", "real", "image", "ir2", [0.4]),
    ("a", "blend", "image", "ib1", [0.35]),
    ("b", "real", "video", "br1", [0.01]),
    ("b", "morph", "video", "bm1", [0.02]),
]


def test_scopes_hold_what_they_say(predictions):
    made = summarise(predictions(ROWS), clip_frames=2, resamples=50)
    assert made["samples"] | {"dropped_by_reason": {}} == {
        "scored": 11, "real": 5, "fake": 6, "clip_frames": 2, "padded": 3, "trained_on": 0, "dropped": 0, "dropped_by_reason": {}
    }  # fmt: skip
    assert set(made["kinds"]) == {"image", "video"}  # a folder of frames is a video
    assert set(made["datasets"]) == {"a", "b"}
    video = made["datasets"]["a"]["kinds"]["video"]
    assert (video["video"]["n_real"], video["video"]["n_fake"]) == (2, 4)
    assert (video["frame"]["n_real"], video["frame"]["n_fake"]) == (4, 7)
    assert video["video"]["auc"] == roc_auc_score([0, 0, 1, 1, 1, 1], [0.15, 0.6, 0.85, 0.4, 0.7, 0.12])
    assert video["video"]["confusion"] == {"tn": 1, "fp": 1, "fn": 2, "tp": 2}
    # a manipulation meets the reals of its own data set and kind, and no other manipulation
    methods = made["methods"]["a"]["video"]
    assert methods["blend"]["video"]["auc"] == roc_auc_score([0, 0, 1, 1], [0.15, 0.6, 0.85, 0.4])
    assert methods["flicker"]["frame"]["n_real"] == 4
    assert made["methods"]["b"]["video"]["morph"]["video"]["auc"] == 1.0
    image = made["methods"]["a"]["image"]["blend"]
    assert image["video"]["auc"] == image["frame"]["auc"] == 0.5


def test_a_video_is_the_mean_over_its_video_id_and_nothing_else(predictions):
    """Four samples of two videos, as when several clips are cut from one file."""
    rows = [("a", "real", "video", "x", [0.2]), ("a", "real", "video", "x", [0.8]), ("a", "blend", "video", "y", [0.7])]
    level = summarise(predictions(rows), clip_frames=1)["overall"]["video"]
    assert (level["n_real"], level["n_fake"]) == (1, 1)
    assert level["auc"] == 1.0  # 0.5 against 0.7; sample by sample it would be 0.5


def test_a_video_with_both_labels_is_refused(predictions):
    rows = [("a", "real", "video", "000", [0.2]), ("a", "blend", "video", "000", [0.8])]
    with pytest.raises(ManifestError, match="1 video_id values hold both real and fake samples, among them 000"):
        summarise(predictions(rows), clip_frames=1)


@pytest.mark.parametrize(("method", "word"), [("real", "real"), ("blend", "fake")])
def test_one_class_gives_null_and_says_why(predictions, method, word):
    made = summarise(predictions([("a", method, "video", str(i), [0.1 * (i + 1)]) for i in range(4)]), clip_frames=1)
    scope = made["overall"]
    assert f"only {word} samples" in scope["note"]
    assert scope["video"]["auc"] is scope["video"]["eer"] is scope["video"]["average_precision"] is None
    assert scope["video"]["accuracy"] is not None
    assert scope["video"]["intervals"]["auc"] is None
    json.dumps(made, allow_nan=False)


def test_a_manipulation_without_reals_of_its_data_set_says_so(predictions):
    made = summarise(predictions([*ROWS, ("c", "swap", "video", "c1", [0.9])]), clip_frames=1, resamples=20)
    assert "only fake" in made["methods"]["c"]["video"]["swap"]["note"]
    assert made["methods"]["a"]["video"]["blend"]["note"] is None


def test_nothing_scored_is_null_not_a_crash(predictions):
    made = summarise(predictions([]), clip_frames=12)
    assert made["overall"]["note"].startswith("no samples")
    assert made["overall"]["frame"]["accuracy"] is None
    assert made["datasets"] == made["methods"] == made["kinds"] == {}
    json.dumps(made, allow_nan=False)


def test_dropped_samples_are_counted(predictions):
    made = summarise(predictions(ROWS), clip_frames=2, rejected={"no_face": 3, "empty": 1}, resamples=20)
    assert made["samples"]["dropped"] == 4
    assert made["samples"]["dropped_by_reason"] == {"empty": 1, "no_face": 3}


def test_intervals_hold_the_estimate_and_the_order_of_rows_does_not_matter(predictions):
    table = predictions(ROWS)
    first = summarise(table, clip_frames=2, resamples=200)
    level = first["overall"]["video"]
    assert set(level["intervals"]) == set(ESTIMATES)
    for name, (low, high) in level["intervals"].items():
        outer, _, inner = name.partition(".")
        assert low <= (level[outer][inner] if inner else level[outer]) <= high
    assert set(first["overall"]["frame"]["intervals"]) == set(ESTIMATES)
    assert summarise(table.sample(fraction=1.0, shuffle=True, seed=5), clip_frames=2, resamples=200) == first


def test_nan_is_refused(predictions):
    table = predictions(ROWS).with_columns(score=pl.lit(float("nan")))
    with pytest.raises(ValueError, match="NaN"):
        summarise(table, clip_frames=1)
