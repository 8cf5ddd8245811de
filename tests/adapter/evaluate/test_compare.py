"""Runs are compared on the samples they share, and the matrices say where each was trained and tested."""

import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.adapter.evaluate.compare import Scored, compare, read_scored, stage_names
from d2st.adapter.evaluate.delong import delong_test
from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.evaluate.heatmap import heatmap_png
from d2st.adapter.evaluate.matrix import Row, cross_matrices
from d2st.adapter.evaluate.summary import summarise
from d2st.cache.errors import ConfigError, ManifestError, RunError, UnknownNameError


@pytest.fixture
def table(predictions):
    """table(seed, skill): 40 videos of one data set, reals and two manipulations; ids and videos are the same for every seed."""

    def make(seed=0, *, skill=2.0, dataset="a", count=40):
        rng = np.random.default_rng(seed)
        methods = ("real", "blend", "real", "flicker")
        rows = []
        for i in range(count):
            method = methods[i % 4]
            z = rng.normal() + skill * (method != "real") - skill / 2
            rows.append((dataset, method, "video", f"{dataset}{i}", [float(1 / (1 + np.exp(-z)))]))
        return predictions(rows).with_columns(sample_id=pl.col("sample_id") + dataset)

    return make


def scored(name, predictions, trained=None):
    return Scored(name, 1, "d2st", predictions, trained)


def test_the_table_holds_what_the_parts_say(table):
    good, same, bad = table(0), table(1), table(2, skill=0.0)
    made = compare([scored("x", good), scored("y", same), scored("z", bad)], resamples=200)
    json.dumps(made, allow_nan=False)
    assert made["samples"] == {"common": 40, "videos": 40, "lost": {"x": 0, "y": 0, "z": 0}}
    first, second, third = made["runs"]
    own = summarise(good, clip_frames=1, resamples=200)["overall"]["video"]
    assert first["value"] == own["auc"]
    assert first["interval"] == own["intervals"]["auc"]
    assert first["difference"] is first["delong"] is None
    assert third["difference"] == pytest.approx(third["value"] - first["value"])
    assert third["difference_interval"][1] < 0
    order = good.sort("video_id")
    tests = [
        delong_test(order["label"].to_numpy(), other.sort("video_id")["score"].to_numpy(), order["score"].to_numpy())
        for other in (same, bad)
    ]
    assert [row["delong"]["p"] for row in (second, third)] == [test.p for test in tests]
    assert third["delong"]["p_holm"] == min(1.0, 2 * third["delong"]["p"]) < 0.05


def test_only_shared_samples_count_and_the_rest_is_told(table):
    whole, part = table(0), table(1).head(30).sample(fraction=1.0, shuffle=True, seed=3)
    made = compare([scored("x", whole), scored("y", part)], resamples=20)
    assert made["samples"] == {"common": 30, "videos": 30, "lost": {"x": 10, "y": 0}}
    assert made["runs"][0]["value"] == summarise(whole.head(30), clip_frames=1, resamples=2)["overall"]["video"]["auc"]


@pytest.mark.parametrize("metric", ["eer", "tpr_at_fpr.0.05", "ece"])
def test_any_metric_of_the_summary(table, metric):
    made = compare([scored("x", table(0)), scored("y", table(1))], metric=metric, resamples=50)
    level = summarise(table(1), clip_frames=1, resamples=2)["overall"]["video"]
    outer, _, inner = metric.partition(".")
    assert made["runs"][1]["value"] == (level[outer][inner] if inner else level[outer])


def test_refusals(table):
    one = table(0)
    with pytest.raises(ConfigError, match="at least two"):
        compare([scored("x", one)])
    with pytest.raises(ConfigError, match="at least two different"):
        compare([scored("x", one), scored("x", one)])
    with pytest.raises(UnknownNameError, match="average_precision"):
        compare([scored("x", one), scored("y", one)], metric="f2")
    with pytest.raises(ConfigError, match="no sample was scored by all of x, y"):
        compare([scored("x", one), scored("y", table(0, dataset="b"))])
    turned = one.with_columns(label=(1 - pl.col("label")).cast(pl.Int8))
    with pytest.raises(ManifestError, match="do not agree on the label of 40 samples"):
        compare([scored("x", one), scored("y", turned)])


def test_matrices(table):
    home, away = table(0), table(3, dataset="b")
    both = pl.concat([home, away])
    made = cross_matrices(
        [
            Row("x", both, frozenset({("a", "real"), ("a", "blend")})),
            Row("y", home.head(20), frozenset({("b", "real"), ("b", "flicker")})),
            Row("z", away, None),
        ],
        resamples=20,
    )
    matrix = made["datasets"]
    assert matrix["rows"] == ["x", "y", "z"]
    assert matrix["trained_on"] == [["a"], ["b"], None]
    assert matrix["columns"] == [
        {"dataset": "a", "kind": "video", "method": None},
        {"dataset": "b", "kind": "video", "method": None},
    ]
    (xa, xb), (ya, yb), (za, zb) = matrix["cells"]
    assert (xa["seen"], xb["seen"], ya["seen"], zb["seen"]) == (True, False, False, None)
    assert yb is za is None
    # x and y meet on the 20 samples of a that both have; y's absence from b takes nothing from x and z
    assert xa["n_real"] + xa["n_fake"] == 20
    assert xb["n_real"] + xb["n_fake"] == 40
    assert xb["auc"] == summarise(away, clip_frames=1, resamples=2)["overall"]["video"]["auc"]
    assert xb["interval"][0] <= xb["auc"] <= xb["interval"][1]
    methods = made["methods"]
    assert methods["trained_on"] == [["a: blend"], ["b: flicker"], None]
    names = [(column["dataset"], column["method"]) for column in methods["columns"]]
    assert names == [("a", "blend"), ("a", "flicker"), ("b", "blend"), ("b", "flicker")]
    assert [cell and cell["seen"] for cell in methods["cells"][0]] == [True, False, False, False]
    assert [cell and cell["seen"] for cell in methods["cells"][1]] == [False, False, None, None]
    json.dumps(made, allow_nan=False)

    for matrix in made.values():
        picture = heatmap_png(matrix, title="made")
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", picture[16:24])) > 300
        assert picture == heatmap_png(matrix, title="made")


def test_a_column_of_one_class_is_empty_not_half(table):
    fakes = table(0).filter(pl.col("label") == 1)
    cell = cross_matrices([Row("x", fakes, None)], resamples=10)["datasets"]["cells"][0][0]
    assert cell["auc"] is cell["interval"] is None
    assert cell["n_fake"] == 20


@pytest.fixture
def evaluated(tmp_path, table):
    """evaluated(folder, predictions): as `d2st eval` leaves it beside runs/one/stage1/best.safetensors."""
    stage = tmp_path / "runs" / "one" / "stage1"
    stage.mkdir(parents=True)
    checkpoint = stage / "best.safetensors"
    checkpoint.write_bytes(b"weights")

    def leave(folder="eval-test", predictions=None, *, digest=None):
        (stage / folder).mkdir(exist_ok=True)
        (table(0) if predictions is None else predictions).write_parquet(stage / folder / "predictions.parquet")
        about = {"checkpoint": digest or checkpoint_digest(checkpoint)}
        (stage / folder / "metrics.json").write_text(json.dumps({"split": "test", "about": about}))
        return checkpoint

    return leave


ABOUT = {"stage": 1, "adapter": "d2st"}


def test_reads_all_evaluations_of_a_split(evaluated, table):
    evaluated()
    evaluated("eval-test-other", pl.concat([table(9), table(1, dataset="b")]))  # the first evaluation of a sample counts
    evaluated("eval-val", table(5, dataset="c"))
    found = read_scored(evaluated(), split="test", about=ABOUT)
    assert (found.name, found.stage, found.adapter, found.trained) == ("one/stage1", 1, "d2st", None)
    assert found.predictions.equals(pl.concat([table(0), table(1, dataset="b")]))


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/w/runs/a/stage1", "/w/runs/a/stage2"], ["a/stage1", "a/stage2"]),
        (
            ["/w/x/runs/a/stage1", "/w/y/runs/a/stage1", "/w/x/runs/b/stage1"],
            ["x/runs/a/stage1", "y/runs/a/stage1", "b/stage1"],
        ),
        (["/w/a/stage1", "/w/w/a/stage1"], ["/w/a/stage1", "w/w/a/stage1"]),
        (["/w/runs/a/stage1"] * 2, ["/w/runs/a/stage1"] * 2),
    ],
)
def test_runs_of_one_name_are_called_by_as_much_as_tells_them_apart(folders, names):
    assert stage_names([Path(folder) for folder in folders]) == names


def test_says_which_evaluation_is_missing_old_or_damaged(evaluated):
    checkpoint = evaluated()
    with pytest.raises(RunError, match=r"no evaluation of the val split. Run `d2st eval .*stage1 --split val` first"):
        read_scored(checkpoint, split="val", about=ABOUT)
    evaluated(digest="0" * 32)
    with pytest.raises(RunError, match="of another checkpoint"):
        read_scored(checkpoint, split="test", about=ABOUT)
    evaluated()
    (checkpoint.parent / "eval-test" / "predictions.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        read_scored(checkpoint, split="test", about=ABOUT)
    evaluated(predictions=pl.DataFrame({"sample_id": ["x"]}))
    with pytest.raises(RunError, match="damaged"):
        read_scored(checkpoint, split="test", about=ABOUT)


def test_what_a_run_was_trained_on_comes_from_its_stages_and_the_store(evaluated, tmp_path, make_store, corpus):
    checkpoint = evaluated()
    store = make_store(tmp_path / "made.d2st", corpus())
    (checkpoint.parent / "fingerprint.json").write_text(json.dumps({"cache_path": "../../../made.d2st"}))
    assert read_scored(checkpoint, split="test", about=ABOUT).trained is None  # nothing says which samples
    rows = store.manifest().filter(pl.col("method") != "flicker").select("sample_id")
    val = store.manifest().filter(pl.col("method") == "flicker").select("sample_id", split=pl.lit("val"))
    pl.concat([rows.with_columns(split=pl.lit("train")), val]).write_parquet(checkpoint.parent / "samples.parquet")
    assert read_scored(checkpoint, split="test", about=ABOUT).trained == {("made", "real"), ("made", "blend")}
