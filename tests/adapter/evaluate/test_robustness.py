"""Robustness numbers against direct computation; what is paired; curves as a picture; which samples stand for all."""

import io
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from d2st.adapter.evaluate.bootstrap import bootstrap_intervals
from d2st.adapter.evaluate.metrics import binary_auc
from d2st.adapter.evaluate.robustness import summarise_robustness
from d2st.adapter.evaluate.robustness_plot import robustness_png
from d2st.adapter.evaluate.robustness_write import write_robustness
from d2st.adapter.evaluate.subset import balanced_subset
from d2st.cache.errors import RunError


@pytest.fixture
def tables(predictions):
    """(clean, five severities) of 30 images and 30 videos: scores fall to chance, fakes first."""
    rng = np.random.default_rng(0)
    kinds, labels = np.repeat(["image", "video"], 30), np.tile([0, 1, 1], 20)
    clean = np.clip(0.4 + 0.15 * labels + rng.normal(0, 0.15, 60), 0.01, 0.99)
    noise = rng.uniform(0.01, 0.99, 60)

    def table(share):
        scores = (1 - share) * clean + share * noise
        places = zip(kinds, labels, scores, strict=True)
        return predictions(
            [("made", "swap" if y else "real", kind, f"v{i}", [float(s)]) for i, (kind, y, s) in enumerate(places)]
        )

    return table(0.0), [table(step / 5) for step in range(1, 6)]


def test_numbers_are_those_of_a_direct_computation(tables):
    clean, steps = tables
    found = summarise_robustness(clean, {"jpeg": steps}, resamples=200)
    level = found["perturbations"]["jpeg"][2]["kinds"]["video"]
    before, after = (table.filter(pl.col("kind") == "video").sort("video_id") for table in (clean, steps[2]))
    labels = after["label"].to_numpy()
    assert (level["n_real"], level["n_fake"]) == (10, 20)
    assert level["auc"] == pytest.approx(roc_auc_score(labels, after["score"]))
    assert level["auc_change"] == pytest.approx(roc_auc_score(labels, after["score"]) - roc_auc_score(labels, before["score"]))
    assert level["shift_fake"] == pytest.approx((after["score"] - before["score"]).filter(after["label"] == 1).mean())
    assert level["score_real"] == pytest.approx(after.filter(pl.col("label") == 0)["score"].mean())
    # the interval is that of `d2st eval`
    bounds = bootstrap_intervals(labels, after["score"], after["video_id"].to_numpy(), {"auc": binary_auc}, resamples=200)
    assert level["interval"] == pytest.approx(bounds["auc"])
    assert found["perturbations"]["jpeg"][2]["datasets"]["made"]["video"] == level


def test_changes_are_paired(tables):
    clean, steps = tables
    near = clean.with_columns(score=0.8 * pl.col("score") + 0.2 * steps[0]["score"])
    order = np.random.default_rng(1).permutation(len(clean))
    found = summarise_robustness(clean, {"same": [clean[order.tolist()]], "near": [near]}, resamples=300)
    for level in (*found["clean"]["kinds"].values(), *found["perturbations"]["same"][0]["kinds"].values()):
        assert level["auc_change"] == level["shift_real"] == level["shift_fake"] == 0
        assert level["auc_change_interval"] == [0, 0]
    for level in found["perturbations"]["near"][0]["kinds"].values():
        assert np.ptp(level["auc_change_interval"]) < np.ptp(level["interval"]) / 2


def test_what_can_not_be_computed_is_null(predictions):
    rows = [("made", "real", "image", f"v{i}", [0.2]) for i in range(4)] + [
        ("made", "real", "video", "w0", [0.1]),
        ("made", "swap", "video", "w1", [0.9]),
    ]
    table = predictions(rows)
    kinds = summarise_robustness(table, {"blur": [table]}, resamples=10)["perturbations"]["blur"][0]["kinds"]
    assert (kinds["image"]["auc"], kinds["image"]["interval"], kinds["image"]["score_fake"]) == (None, None, None)
    assert (kinds["video"]["auc"], kinds["video"]["interval"], kinds["video"]["auc_change_interval"]) == (1.0, None, None)


def test_other_samples_are_refused(tables):
    clean, steps = tables
    with pytest.raises(RunError, match="the scores of blur are of other samples"):
        summarise_robustness(clean, {"blur": [steps[0].head(50)]})


def document_of(clean, perturbed):
    numbers = summarise_robustness(clean, perturbed, resamples=50)
    entries = {
        name: {"parameter": "quality", "severities": [{"value": 90 - place, **step} for place, step in enumerate(steps)]}
        for name, steps in numbers["perturbations"].items()
    }
    return {"clean": numbers["clean"], "perturbations": entries}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_curves(tables, count):
    clean, steps = tables
    document = document_of(clean, {f"p{place}": steps for place in range(count)})
    png = robustness_png(document, title="a run")
    assert robustness_png(document, title="a run") == png
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(picture - colour).max(axis=2) < 3).sum() > 300 * count


def test_curves_of_one_class_or_without_intervals_are_still_a_picture(tables):
    clean, _ = tables
    for table in (clean.filter(pl.col("label") == 0), clean.sort("label").group_by("label", "kind").first()):
        document = document_of(table, {"jpeg": [table] * 5})
        assert robustness_png(document, title="a run").startswith(b"\x89PNG")


def test_files(tables, tmp_path):
    clean, steps = tables
    document = document_of(clean, {"jpeg": steps})
    scored = {(None, 0): clean} | {("jpeg", severity): table for severity, table in enumerate(steps, start=1)}
    write_robustness(tmp_path, document, scored, title="a run")
    assert json.loads((tmp_path / "robustness.json").read_text()) == document
    scores = pl.read_parquet(tmp_path / "robustness.parquet")
    assert len(scores) == 6 * len(clean)
    kept = scores.filter((pl.col("perturbation") == "jpeg") & (pl.col("severity") == 4))["score"]
    assert kept.equals(steps[3]["score"])
    with pytest.raises(ValueError, match="Out of range float"):
        write_robustness(tmp_path, {**document, "bad": float("nan")}, scored, title="a run")
    assert (tmp_path / "robustness.json").is_file()


def samples_of(rows, *, dataset="made"):
    """Tuples (kind, label, video_id)."""
    return pl.DataFrame(
        [(f"{dataset}{i:03d}", *row, i) for i, row in enumerate(rows)],
        schema=["sample_id", "kind", "label", "video_id", "start"],
        orient="row",
    )


def test_a_part_is_balanced_by_label_kind_and_video():
    rows = [("image", 0, f"i{k}") for k in range(50)] + [("image", 1, f"f{k}") for k in range(200)]
    rows += [("video", 0, f"v{k % 4}") for k in range(40)] + [("frames", 1, f"w{k}") for k in range(30)]
    chosen = [samples_of(rows), samples_of([("video", 1, "x0")], dataset="other")]
    made = balanced_subset(chosen, 40)
    table = pl.concat(made)
    assert len(table) == 40
    counts = table.with_columns(pl.col("kind").replace("frames", "video")).group_by("kind", "label").len()
    assert counts["len"].to_list() == [10] * 4
    per_video = table.filter(pl.col("video_id").str.starts_with("v")).group_by("video_id").len()["len"]
    assert (per_video.len(), per_video.max()) == (4, 3)  # 10 of 4 videos
    assert [part.columns for part in made] == [part.columns for part in chosen]
    assert made[0]["start"].is_sorted()  # the order that it had
    assert all(a.equals(b) for a, b in zip(made, balanced_subset(chosen, 40), strict=True))
    assert not made[0].equals(balanced_subset(chosen, 40, seed=1)[0])


def test_a_short_group_leaves_its_place_to_others_and_all_is_all():
    rows = [("video", 0, "a")] * 2 + [("video", 1, f"b{k}") for k in range(30)]
    (made,) = balanced_subset([samples_of(rows)], 10)
    assert made.group_by("label").len().sort("label").rows() == [(0, 2), (1, 8)]
    whole = samples_of(rows)
    assert balanced_subset([whole], 1000)[0].equals(whole)
