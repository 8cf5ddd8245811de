"""The temperature comes from the validation split and from nothing else, and it is the one that fits best."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from d2st.adapter.evaluate.calibration import fit_temperature, rescale, validation_temperatures
from d2st.adapter.evaluate.groups import with_two_kinds
from d2st.adapter.evaluate.summary import summarise


def logits(count=400, *, sharpness=1.0, seed=0):
    """Labels drawn from sigmoid(z), and z as an overconfident (sharpness > 1) or shy detector would tell it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=2.0, size=count)
    return (rng.random(count) < 1 / (1 + np.exp(-z))).astype(int), z * sharpness


def nll(y, z, temperature):
    return float(np.mean(np.logaddexp(0, -(2 * y - 1) * z / temperature)))


@pytest.fixture
def scored(predictions):
    """scored(split, labels, logits): one video a row."""

    def table(split, labels, z, *, prefix=""):
        rows = [("a", "blend" if y else "real", "video", f"{prefix}{i}", [0.5]) for i, y in enumerate(labels)]
        score = (1 + np.tanh(np.asarray(z, dtype=float) / 2)) / 2
        return predictions(rows).with_columns(
            pl.lit(split).cast(pl.Enum(["train", "val", "test"])).alias("split"),
            sample_id=pl.col("sample_id") + prefix,
            logit=pl.Series(z, dtype=pl.Float64),
            score=pl.Series(score),
            frame_scores=pl.Series([[value] for value in score]),
        )

    return table


@given(st.integers(0, 50), st.floats(0.2, 20.0))
def test_no_other_temperature_fits_better(seed, sharpness):
    y, z = logits(80, sharpness=sharpness, seed=seed)
    found = fit_temperature(y, z)
    best = minimize_scalar(lambda log: nll(y, z, np.exp(log)), bounds=(-4, 6), method="bounded", options={"xatol": 1e-9})
    assert nll(y, z, found) <= best.fun + 1e-12
    assert found == pytest.approx(np.exp(best.x), rel=1e-3)


def test_finds_by_how_much_a_detector_exaggerates():
    assert fit_temperature(*logits(20_000)) == pytest.approx(1.0, rel=0.03)
    assert fit_temperature(*logits(20_000, sharpness=3.0)) == pytest.approx(3.0, rel=0.03)
    y, z = logits(sharpness=3.0)
    assert fit_temperature(np.tile(y, 3), np.tile(z, 3)) == pytest.approx(fit_temperature(y, z))


@pytest.mark.parametrize(
    ("labels", "z", "message"),
    [
        ([0, 0, 1, 1], [-1, -2, 1, 2], "either side of logit 0"),
        ([0, 0, 1, 1], [1, 2, -1, -2], "no better than chance"),
        ([0, 1, 0, 1], [1, 1, -1, -1], "no better than chance"),
        ([1, 1], [1, -2], "one class alone"),
        ([], [], "one class alone"),
        ([0, 1], [1, float("nan")], "NaN"),
    ],
)
def test_where_there_is_no_best_temperature_it_says_why(labels, z, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(labels, z)


def test_rescaling_is_the_sigmoid_of_the_divided_logit(scored):
    z = [-800.0, -3.0, 0.0, 2.0, 50.0, 800.0]
    made = rescale(with_two_kinds(scored("test", [0, 0, 0, 1, 1, 1], z)), {"video": 2.0})
    expected = [0.0, 1 / (1 + np.exp(1.5)), 0.5, 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-25.0)), 1.0]
    np.testing.assert_allclose(made["score"], expected, atol=1e-15)
    # a frame score of 1 has lost its logit to rounding and stays 1
    np.testing.assert_allclose(made["frame_scores"].explode(), [*expected[:4], 1.0, 1.0], atol=1e-12)
    assert made["logit"].to_list() == z
    same = rescale(made, {"video": 1.0, "image": 9.0})
    np.testing.assert_allclose(same["frame_scores"].explode(), made["frame_scores"].explode(), atol=1e-12)


def test_nothing_is_fitted_on_what_is_scored(scored):
    """Other labels and logits in the scored split leave the temperature bit for bit; other ones in validation do not."""
    val = scored("val", *logits(200, sharpness=3.0), prefix="v")
    y, z = logits(100, seed=1)
    tests = [scored("test", y, z), scored("test", 1 - y, z * 7), scored("test", y[:20], z[:20])]
    made = [summarise(test, clip_frames=1, validation=val, resamples=10) for test in tests]
    temperatures = {summary["calibration"]["temperatures"]["video"] for summary in made}
    assert temperatures == {fit_temperature(*logits(200, sharpness=3.0))}
    other = summarise(tests[0], clip_frames=1, validation=scored("val", *logits(200, sharpness=2.0), prefix="v"), resamples=10)
    assert other["calibration"]["temperatures"]["video"] not in temperatures


def test_a_split_that_is_not_validation_is_an_error(scored):
    test = scored("test", *logits(50))
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="on the val split alone"):
            validation_temperatures(scored(split, *logits(50), prefix="v"), test)


def test_shared_samples_or_videos_are_refused_with_the_reason(scored):
    val = scored("val", *logits(50, sharpness=2.0), prefix="v")
    assert validation_temperatures(val, scored("test", *logits(50))).values
    same = val.with_columns(split=pl.lit("test").cast(val.schema["split"]))
    found = validation_temperatures(val, same)
    assert not found.values
    assert "50 of the samples scored here" in found.reason
    other_ids = same.head(10).with_columns(sample_id=pl.col("sample_id") + "x")
    assert "10 of the samples scored here" in validation_temperatures(val, other_ids).reason
    assert "none is fitted on what is scored" in validation_temperatures(None, val).reason
    assert "no val split" in validation_temperatures(val.head(0), same).reason


def test_nothing_is_fitted_on_what_the_detector_was_trained_on(scored):
    """A run that was trained by another manifest had another val split than its cache names."""
    val, test = scored("val", *logits(50, sharpness=2.0), prefix="v"), scored("test", *logits(50))
    made = summarise(test, clip_frames=1, validation=val, trained_on=[val["sample_id"][7], "x"], resamples=10)["calibration"]
    assert made["temperatures"] == {}
    assert "was trained on 1 of the 50 samples" in made["reason"]


def test_summary_tells_before_and_after(scored):
    val, test = scored("val", *logits(2000, sharpness=4.0), prefix="v"), scored("test", *logits(600, sharpness=4.0, seed=2))
    made = summarise(test, clip_frames=1, validation=val, resamples=100)
    level, calibration = made["overall"]["video"], made["calibration"]
    assert calibration["samples"] == 2000
    assert calibration["datasets"] == ["a"]
    assert calibration["temperatures"] == {"video": pytest.approx(4.0, rel=0.15)}
    assert calibration["fitted_on"] == "val"
    assert level["calibrated"]["ece"] < level["ece"] / 2
    assert level["calibrated"]["brier"] < level["brier"]
    low, high = level["intervals"]["calibrated.ece"]
    assert low < high < level["intervals"]["ece"][0]
    for name in ("bins", "bins_calibrated"):
        assert sum(made["count"] for made in calibration[name]) == 600
    assert made["overall"]["frame"]["calibrated"] == pytest.approx(level["calibrated"])  # one frame a video here
    bare = summarise(test, clip_frames=1, resamples=10)
    assert bare["overall"]["video"]["calibrated"] is bare["calibration"]["bins_calibrated"] is None
    assert bare["calibration"]["temperatures"] == {}
    assert bare["calibration"]["reason"] == "this detector has scored no val split"


def test_images_and_videos_have_a_temperature_each(scored):
    """A kind whose validation has none of its own takes that of all; where nothing helps, what holds this kind is not calibrated."""

    def images(table):
        return table.with_columns(kind=pl.lit("image").cast(table.schema["kind"]))

    def both(split, prefix, image_labels=None):
        y, z = logits(400, sharpness=2.0, seed=len(prefix))
        first = scored(split, y if image_labels is None else y * 0 + image_labels, z, prefix=f"{prefix}i")
        return pl.concat([images(first), scored(split, *logits(400, sharpness=5.0), prefix=f"{prefix}v")])

    val, test = both("val", "v"), both("test", "tt")
    made = summarise(test, clip_frames=1, validation=val, resamples=10)
    assert made["calibration"]["temperatures"] == {
        "image": pytest.approx(2.0, rel=0.25),
        "video": pytest.approx(5.0, rel=0.25),
    }
    alone = summarise(test.filter(pl.col("kind") == "video"), clip_frames=1, validation=val, resamples=10)
    assert made["kinds"]["video"]["video"]["calibrated"] == alone["overall"]["video"]["calibrated"]

    pooled = summarise(test, clip_frames=1, validation=both("val", "v", image_labels=0), resamples=10)["calibration"]
    assert pooled["reason"] is None
    assert pooled["temperatures"]["image"] == fit_temperature(*_logits_of(both("val", "v", image_labels=0)))

    bad = both("val", "v", image_labels=0).filter(pl.col("kind") == "image")  # one class, and nothing else
    lacking = summarise(test, clip_frames=1, validation=bad, resamples=10)
    assert lacking["calibration"]["temperatures"] == {}
    assert "none for images: it holds one class alone; " in lacking["calibration"]["reason"]
    assert lacking["overall"]["video"]["calibrated"] is None


def _logits_of(table):
    return table["label"].to_numpy(), table["logit"].to_numpy()
