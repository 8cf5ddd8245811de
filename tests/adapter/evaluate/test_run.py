"""A whole evaluation on the disk: what is scored, what is counted instead, what is refused, and the files."""

import json
import struct

import numpy as np
import polars as pl
import pytest
import torch

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.evaluate.operating import Operating, operating_points
from d2st.adapter.evaluate.plots import roc_png
from d2st.adapter.evaluate.run import check_store, choose_samples, evaluate_run
from d2st.adapter.evaluate.score import PREDICTIONS
from d2st.adapter.evaluate.validation import kept_validation, score_validation
from d2st.cache.errors import ConfigError, FingerprintError, RunError
from d2st.cache.store import Store

LAYERS = ("block_1", "block_3")


def run(detector, stores, out, **options):
    return evaluate_run(detector, stores, layers=LAYERS, clip_frames=8, out_dir=out, title="made", resamples=50, **options)


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_writes_everything_and_says_the_same_everywhere(tmp_path, make_store, corpus, make_detector):
    store = make_store(tmp_path / "made.d2st", corpus(), rejected={"made-00x": "no_face"})
    out = tmp_path / "out"
    summary = run(make_detector("linear_probe"), [store], out, about={"stage": 2})
    assert summary["about"] == {"stage": 2, "caches": ["made.d2st"]}
    assert json.loads((out / "metrics.json").read_text()) == summary
    assert summary["datasets"]["made"]["kinds"]["video"]["video"]["auc"] > 0.9
    assert summary["samples"]["padded"] == 6  # videos of 5 and of 1 frame

    table = pl.read_parquet(out / "predictions.parquet")
    assert table.schema == PREDICTIONS
    assert table["sample_id"].to_list() == store.samples()["sample_id"].to_list()
    back = pl.read_csv(out / "predictions.csv")
    assert back.columns == table.columns
    assert back["score"].to_list() == table["score"].to_list()  # bit for bit
    assert [[float(x) for x in cell.split(" ")] for cell in back["frame_scores"].cast(pl.String)] == table[
        "frame_scores"
    ].to_list()
    assert back["identity"].to_list() == [" ".join(names) for names in table["identity"]]

    for name in ("roc", "scores", "reliability"):
        width, height = png_size(out / "plots" / f"{name}.png")
        assert width > 1000  # two panels
        assert height > 500
    assert not list(out.rglob("*.partial"))


def test_the_same_evaluation_gives_the_same_bytes(tmp_path, make_store, corpus, make_detector):
    store, detector = make_store(tmp_path / "c", corpus()), make_detector("linear_probe")
    for name in ("first", "second"):
        run(detector, [store], tmp_path / name)
    for path in sorted((tmp_path / "first").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes(), path.name


def test_plots_show_the_data(tmp_path, make_store, corpus, make_detector):
    from PIL import Image

    run(make_detector("linear_probe"), [make_store(tmp_path / "c", corpus())], tmp_path / "out")
    for name in ("roc", "scores", "reliability"):
        pixels = np.asarray(Image.open(tmp_path / "out" / "plots" / f"{name}.png").convert("RGB")).reshape(-1, 3)
        colourful = (pixels.max(1).astype(int) - pixels.min(1) > 60).mean()
        assert 0.0005 < colourful < 0.5


def test_names_are_no_formulas(predictions):
    rows = [("a", "real", "video", f"r{i}", [0.1 * i]) for i in range(1, 4)] + [("a", r"$^$ $\y$", "video", "f", [0.9])]
    assert roc_png(predictions(rows), title=r"runs of $\x$") == roc_png(predictions(rows), title=r"runs of $\x$")


@pytest.mark.usefixtures("unplotted")
def test_two_stores_are_one_evaluation_with_a_number_each(tmp_path, make_store, corpus, make_detector):
    stores = [make_store(tmp_path / name, corpus(name), seed=index) for index, name in enumerate(("one", "two"))]
    seen = []
    summary = run(make_detector("linear_probe"), stores, tmp_path / "out", on_progress=lambda *step: seen.append(step))
    assert set(summary["datasets"]) == {"one", "two"}
    assert summary["samples"]["scored"] == 48
    assert seen[-1] == (48, 48)
    assert seen == sorted(seen)
    with pytest.raises(ConfigError, match="24 samples lie in more than one"):
        run(make_detector("linear_probe"), [stores[0], stores[0]], tmp_path / "out")


def test_whatever_is_not_scored_is_counted(tmp_path, make_store, corpus):
    samples = corpus()
    samples[3]["cached"] = samples[5]["cached"] = samples[7]["cached"] = 0
    store = make_store(tmp_path / "c", samples, rejected={samples[3]["sample_id"]: "no_face", samples[5]["sample_id"]: "empty"})
    (chosen,), dropped = choose_samples([store], split="test")
    assert len(chosen) == 21
    assert dropped == {"empty": 1, "no_face": 1, "not_built": 1}


def test_another_manifest_moves_samples_between_splits(tmp_path, make_store, corpus):
    store = make_store(tmp_path / "c", corpus())
    halved = store.manifest().with_columns(split=pl.when(pl.col("kind") == "image").then(pl.lit("val")).otherwise("split"))
    (chosen,), dropped = choose_samples([store], split="val", manifest=halved)
    assert set(chosen["kind"]) == {"image"}
    assert dropped == {}
    with pytest.raises(ConfigError, match="24 samples more than once"):
        choose_samples([store], split="val", manifest=pl.concat([halved, halved]))


def test_a_missing_split_says_which_ones_there_are(tmp_path, make_store, corpus, make_detector):
    store = make_store(tmp_path / "c", corpus(split="train"))
    with pytest.raises(ConfigError, match="no sample of the test split; it holds train 24"):
        run(make_detector("linear_probe"), [store], tmp_path / "out")


def test_one_class_is_scored_and_plotted_without_a_curve(tmp_path, make_store, corpus, make_detector):
    summary = run(make_detector("linear_probe"), [make_store(tmp_path / "c", corpus(methods=("blend",)))], tmp_path / "out")
    assert summary["overall"]["video"]["auc"] is None
    assert "only fake" in summary["overall"]["note"]
    assert png_size(tmp_path / "out" / "plots" / "roc.png")


def test_a_cache_of_another_kind_is_refused_by_field(tmp_path, make_store, corpus):
    config = {"backbone": "tiny", "micro_batch": 16, "layers": [*LAYERS]}
    store = make_store(tmp_path / "c", corpus())
    check_store(store, config={**config, "layers": ["block_1"]}, layers=["block_1"])  # more layers than needed do no harm
    with pytest.raises(FingerprintError, match="backbone") as caught:
        check_store(store, config={**config, "backbone": "other"}, layers=LAYERS)
    assert caught.value.fields == ["backbone"]
    with pytest.raises(FingerprintError, match="lacks the layers block_9"):
        check_store(Store.open(store.path), config=config, layers=["block_9"])


@pytest.fixture
def split_store(tmp_path, make_store, corpus):
    """24 samples in test and 24 in val, and a detector that is wrong now and then, so that a temperature exists."""
    rows = [*corpus("made"), *corpus("other", split="val")]
    return make_store(tmp_path / "split.d2st", rows)


@pytest.mark.usefixtures("unplotted")
def test_the_temperature_is_that_of_the_val_split(tmp_path, split_store, make_detector):
    detector = make_detector("linear_probe")
    with torch.no_grad():
        detector.head.linear.weight[:, 1:] = 0.0  # one noisy channel of eight
    summary = run(detector, [split_store], tmp_path / "out")
    val = score_validation(detector, [split_store], layers=LAYERS, clip_frames=8)
    assert set(val["split"]) == {"val"}
    predicts = Operating(operating_points(val))  # what P(fake) rests on
    assert len(val) == 24
    assert summary["calibration"]["temperatures"] == {kind: predicts.temperature(kind) for kind in ("image", "video")}
    assert summary["calibration"]["datasets"] == ["other"]
    # the same with other labels in test: nothing of what is scored had a say
    turned = split_store.manifest().with_columns(
        label=pl.when(pl.col("split") == "test").then(1 - pl.col("label")).otherwise("label").cast(pl.Int8)
    )
    again = run(detector, [split_store], tmp_path / "turned", manifest=turned)
    assert again["calibration"]["temperatures"] == summary["calibration"]["temperatures"]
    assert again["overall"]["video"]["auc"] != summary["overall"]["video"]["auc"]
    own = run(detector, [split_store], tmp_path / "val", split="val")
    assert own["calibration"]["temperatures"] == {}
    assert "val split" in own["calibration"]["reason"]


@pytest.mark.usefixtures("unplotted")
def test_kept_validation_serves_for_its_own_checkpoint_alone(tmp_path, split_store, make_detector):
    detector, out = make_detector("linear_probe"), tmp_path / "eval-val"
    checkpoint = tmp_path / "best.safetensors"
    checkpoint.write_bytes(b"weights")
    digest = checkpoint_digest(checkpoint)
    assert kept_validation(out, checkpoint=digest) is None
    run(detector, [split_store], out, split="val", about={"checkpoint": digest})
    kept = kept_validation(out, checkpoint=digest)
    assert kept.equals(score_validation(detector, [split_store], layers=LAYERS, clip_frames=8))
    checkpoint.write_bytes(b"other weights")
    assert kept_validation(out, checkpoint=checkpoint_digest(checkpoint)) is None
    run(detector, [split_store], tmp_path / "eval-test", about={"checkpoint": digest})
    assert kept_validation(tmp_path / "eval-test", checkpoint=digest) is None
    (out / "predictions.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        kept_validation(out, checkpoint=digest)


@pytest.mark.usefixtures("unplotted")
def test_a_protocol_stands_beside_our_numbers(tmp_path, make_store, corpus, make_detector):
    rows = [row | {"path": f"x/{row['method']}/{row['sample_id'][-2:]}/0.png"} for row in corpus()]
    store = make_store(tmp_path / "c", rows)
    summary = run(make_detector("linear_probe"), [store], tmp_path / "out", protocols=["deepfakebench"])
    made = summary["protocols"]["deepfakebench"]["datasets"]["made"]
    assert made["dropped_images"] == 12
    assert made["dropped_videos"] == summary["samples"]["padded"] == 6
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == summary
    assert "protocols" not in run(make_detector("linear_probe"), [store], tmp_path / "plain")
