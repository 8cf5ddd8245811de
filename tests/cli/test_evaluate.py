"""`d2st eval` from the command line: a run on the disk in, tables or JSON out, and errors that can be mended."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
import typer
from typer.testing import CliRunner

from d2st.adapter.train.checkpoint import build_detector, save_checkpoint
from d2st.cache.arrays import ensure_array
from d2st.cache.errors import ConfigError, FingerprintError, RunError
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.store import Store
from d2st.cli.evaluate import evaluate
from d2st.pipeline.manifest import SCHEMA, write_manifest

CHANNELS = 4
CONFIG = {"backbone": "tiny", "layers": ["block_3"]}
app = typer.Typer()
app.command()(evaluate)


def make_store(path, dataset, *, split="test", config=CONFIG):
    """16 images and videos; the fakes' features are larger."""
    rows = pl.DataFrame(
        [
            (
                f"{dataset}{i:02d}",
                dataset,
                ("real", "blend")[i // 2 % 2],
                i // 2 % 2,
                split,
                ("image", "video")[i % 2],
                f"{dataset}v{i}",
                ["x"],
            )
            for i in range(16)
        ],
        schema=["sample_id", "dataset", "method", "label", "split", "kind", "video_id", "identity"],
        orient="row",
    ).with_columns(pl.col("label").cast(pl.Int8))
    frames = [1 if i % 2 == 0 else 3 for i in range(16)]
    starts = np.cumsum([0, *frames])
    Store.ensure(path)
    tokens, crops = ensure_level(path, "tokens", config), ensure_level(path, "crops", {})
    signs = np.repeat(rows["label"].to_numpy() * 2.0 - 1, frames)
    cached = [
        [name, int(start), count, count, None, "", "{}"]
        for name, start, count in zip(rows["sample_id"], starts, frames, strict=False)
    ]
    lost = rows.head(1).with_columns(sample_id=pl.lit(f"{dataset}-lost"))
    with tokens.stage(0) as staged:
        for kind, shape in (("maps", (2, 2, CHANNELS)), ("cls", (CHANNELS,))):
            values = np.random.default_rng(0).normal(size=(signs.size, *shape)) + signs.reshape(-1, *[1] * len(shape))
            ensure_array(tokens.array(f"block_3/{kind}"), frame_shape=shape, dtype="float16", shards=1, attributes={})
            staged.writer(f"block_3/{kind}", frame_dims=len(shape)).append(values.astype(np.float16))
        staged.commit(pl.DataFrame(cached, schema=LEDGER_SCHEMA, orient="row"))
    with crops.stage(0) as staged:
        rejected = [[f"{dataset}-lost", None, 0, 3, "no_face", "", "{}"]]
        staged.commit(pl.DataFrame(rejected, schema=LEDGER_SCHEMA, orient="row"))
    store = Store.open(path)
    everything = pl.concat([rows, lost])
    extend_plan(path / "plan", everything.select("sample_id", slots=pl.lit(3, pl.Int32)))
    store.write_manifest(everything)
    return Store.open(path)


@pytest.fixture
def run(tmp_path, unplotted):
    """tmp/runs/faces/stage2 with a checkpoint trained on tmp/faces.d2st."""
    store = make_store(tmp_path / "faces.d2st", "faces")
    stage = tmp_path / "runs" / "faces" / "stage2"
    stage.mkdir(parents=True)
    stats = {"block_3": (np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))}
    meta = {
        "adapter": "linear_probe",
        "adapter_params": {},
        "layers": ["block_3"],
        "channels": CHANNELS,
        "grid": [2, 2],
        "stage": 2,
    }
    meta |= {
        "clip_frames": 3,
        "fingerprint": store.tokens.fingerprint,
        "config": CONFIG,
        "epoch": 4,
        "seed": 0,
        "shuffled_labels": False,
    }
    detector = build_detector(meta, stats)
    with torch.no_grad():
        detector.head.linear.weight.fill_(1.0)
    save_checkpoint(stage / "best.safetensors", detector, meta=meta, stats=stats)
    (stage / "fingerprint.json").write_text(json.dumps({"cache_path": "../../../faces.d2st"}))
    return tmp_path / "runs" / "faces"


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_finds_the_last_stage_and_its_cache_and_shows_the_scores(run):
    shown = call(run, "--device", "cpu")
    for word in ("faces", "video", "image", "blend", "no_face", "eval-test", "95 %"):
        assert word in shown
    out = run / "stage2" / "eval-test"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.*")} == {
        "predictions.parquet", "predictions.csv", "metrics.json", "plots/roc.png", "plots/scores.png",
        "plots/reliability.png"
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["datasets"]["faces"]["kinds"]["video"]["video"]["auc"] > 0.9
    assert "modality gap: centroids real" in shown
    assert metrics["gap"]["probe_accuracy"] is not None
    assert metrics["gap"]["transfer_image_to_video"] is None  # this store has no train split


def test_json_is_the_metrics_file_and_holds_no_path(run):
    made = json.loads(call(run / "stage2" / "best.safetensors", "--json", "--device", "cpu"))
    assert made == json.loads((run / "stage2" / "eval-test" / "metrics.json").read_text())
    assert made["about"]["stage"] == 2
    assert str(run.parent.parent) not in json.dumps(made)


def test_several_caches_give_a_row_each_and_one_for_all(run, tmp_path):
    make_store(tmp_path / "wild.d2st", "wild")
    shown = call(
        run, "--cache", tmp_path / "faces.d2st", "--cache", tmp_path / "wild.d2st", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert "wild" in shown
    assert "all" in shown
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_the_whole_tree_can_move(run, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("runs", "faces.d2st"):
        shutil.move(tmp_path / name, moved / name)
    assert "no_face" in call(moved / "runs" / "faces", "--device", "cpu")


def test_says_so_when_it_scores_what_was_trained_on(run):
    assert "seen in training" not in call(run, "--device", "cpu")
    seen = pl.DataFrame({"sample_id": ["faces00", "faces01", "faces02"], "split": ["train", "train", "val"]})
    (run / "stage1").mkdir()
    seen.write_parquet(run / "stage1" / "samples.parquet")  # an earlier stage counts too
    assert "seen in training" in call(run, "--device", "cpu")
    assert json.loads((run / "stage2" / "eval-test" / "metrics.json").read_text())["samples"]["trained_on"] == 2
    (run / "stage2" / "fingerprint.json").write_text(json.dumps({"init": "other/stage1", "cache_path": "../../../faces.d2st"}))
    call(run, "--device", "cpu")  # it did not start from the stage 1 beside it
    assert json.loads((run / "stage2" / "eval-test" / "metrics.json").read_text())["samples"]["trained_on"] == 0
    (run.parent / "other" / "stage1").mkdir(parents=True)
    seen.head(1).write_parquet(run.parent / "other" / "stage1" / "samples.parquet")
    call(run, "--device", "cpu")
    assert json.loads((run / "stage2" / "eval-test" / "metrics.json").read_text())["samples"]["trained_on"] == 1


def with_val(store):
    """Every fourth sample becomes val, and manifests of real life have paths."""
    rows = store.manifest().with_row_index("n")
    val = pl.when(pl.col("n") % 4 == 3).then(pl.lit("val")).otherwise(pl.lit("test"))
    store.write_manifest(rows.with_columns(split=val, path=pl.format("x/{}/0.png", "sample_id")).drop("n"))


def test_the_temperature_comes_from_the_runs_own_val_split(run, tmp_path):
    with_val(Store.open(tmp_path / "faces.d2st"))
    made = json.loads(call(run, "--device", "cpu", "--json"))
    assert (made["calibration"]["samples"], made["calibration"]["datasets"]) == (4, ["faces"])
    # of other data too, whether or not that has a val split
    make_store(tmp_path / "wild.d2st", "wild")
    wild = json.loads(call(run, "--cache", tmp_path / "wild.d2st", "--device", "cpu", "--json"))
    assert wild["calibration"] | {"bins": 0, "bins_calibrated": 0} == made["calibration"] | {"bins": 0, "bins_calibrated": 0}
    # and what an evaluation of val left is taken instead of scoring again, by the same checkpoint alone
    call(run, "--split", "val", "--device", "cpu")
    kept = run / "stage2" / "eval-val" / "predictions.parquet"
    pl.read_parquet(kept).head(3).write_parquet(kept)
    assert json.loads(call(run, "--device", "cpu", "--json"))["calibration"]["samples"] == 3
    metrics = kept.parent / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"checkpoint": "', '"checkpoint": "0'))
    assert json.loads(call(run, "--device", "cpu", "--json"))["calibration"]["samples"] == 4
    # nor does one by another manifest serve, which may call other samples val
    manifest = Store.open(tmp_path / "faces.d2st").manifest()
    flipped = pl.when(pl.col("split") == "val").then(pl.lit("test")).otherwise(pl.lit("val"))
    lacking = {name: pl.lit(None) for name in SCHEMA if name not in manifest.columns}
    rows = manifest.with_columns(split=flipped, **lacking).select(SCHEMA.names()).cast(dict(SCHEMA))
    write_manifest(rows, tmp_path / "flipped.parquet", root=tmp_path)
    call(run, "--split", "val", "--manifest", tmp_path / "flipped.parquet", "--device", "cpu")
    assert json.loads(metrics.read_text())["about"]["manifests"] == ["flipped.parquet"]
    assert json.loads(call(run, "--device", "cpu", "--json"))["calibration"]["samples"] == 4
    # without its own cache there is none, rather than that of other data
    shutil.rmtree(tmp_path / "faces.d2st")
    with_val(Store.open(tmp_path / "wild.d2st"))
    lost = json.loads(call(run, "--cache", tmp_path / "wild.d2st", "--device", "cpu", "--json"))["calibration"]
    assert (lost["temperatures"], lost["samples"]) == ({}, 0)


def test_caches_of_one_name_do_not_replace_each_other(run, tmp_path):
    for name in ("celeb", "dfdc"):
        (tmp_path / name).mkdir()
        make_store(tmp_path / name / "faces.d2st", name)
    for name in ("celeb", "dfdc", "celeb", "dfdc"):
        call(run, "--cache", tmp_path / name / "faces.d2st", "--device", "cpu")
    found = {path.name: pl.read_parquet(path / "predictions.parquet")["dataset"][0] for path in (run / "stage2").glob("eval-*")}
    assert found == {"eval-test-faces": "celeb", "eval-test-dfdc-faces": "dfdc"}


def test_protocol_is_shown_beside_ours_with_the_reasons(run, tmp_path):
    with_val(Store.open(tmp_path / "faces.d2st"))
    shown = call(run, "--protocol", "deepfakebench", "--device", "cpu")
    for word in ("As deepfakebench measures", "clip AUC", "images dropped", "nearest to equality"):
        assert word in shown
    assert "As deepfakebench" not in call(run, "--device", "cpu")


def test_a_cache_that_is_gone_asks_for_one(run, tmp_path):
    shutil.rmtree(tmp_path / "faces.d2st")
    with pytest.raises(RunError, match="--cache STORE"):
        call(run, "--device", "cpu")


def test_a_cache_of_another_backbone_is_refused(run, tmp_path):
    make_store(tmp_path / "other.d2st", "other", config={**CONFIG, "backbone": "large"})
    with pytest.raises(FingerprintError, match="backbone is 'large' there, 'tiny' here"):
        call(run, "--cache", tmp_path / "other.d2st", "--device", "cpu")


def test_a_split_that_is_not_there(run):
    with pytest.raises(ConfigError, match="no sample of the val split; it holds test 16"):
        call(run, "--split", "val", "--device", "cpu")


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        call(tmp_path / "runs" / "none")


def test_help_has_examples_to_paste():
    assert "d2st eval runs/faces --cache" in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
