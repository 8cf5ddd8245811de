"""`d2st compare` from the command line: two evaluated runs in, tables or JSON out."""

import json

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.evaluate.score import PREDICTIONS
from d2st.adapter.train.checkpoint import build_detector, save_checkpoint
from d2st.cache.errors import ConfigError, RunError
from d2st.cli.compare import compare

app = typer.Typer()
app.command()(compare)


def make_run(folder, *, seed, skill, count=40):
    """runs/NAME/stage1 with a checkpoint and its evaluation of the test split."""
    stage = folder / "stage1"
    stats = {"block_3": (np.zeros(4, np.float32), np.ones(4, np.float32))}
    meta = {"adapter": "linear_probe", "adapter_params": {}, "layers": ["block_3"], "channels": 4, "grid": [2, 2], "stage": 1}
    (stage / "eval-test").mkdir(parents=True)
    save_checkpoint(stage / "best.safetensors", build_detector(meta, stats), meta=meta | {"seed": seed}, stats=stats)
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    logit = rng.normal(size=count) + skill * (label - 0.5)
    score = 1 / (1 + np.exp(-logit))
    rows = {
        "sample_id": [f"s{i:02d}" for i in range(count)],
        "dataset": ["faces"] * count,
        "method": np.where(label, "blend", "real").tolist(),
        "label": label.tolist(),
        "split": ["test"] * count,
        "kind": ["video"] * count,
        "video_id": [f"v{i}" for i in range(count)],
        "identity": [["x"]] * count,
        "frames": [1] * count,
        "logit": logit.tolist(),
        "score": score.tolist(),
        "frame_scores": [[value] for value in score],
    }
    pl.DataFrame(rows, schema=PREDICTIONS).write_parquet(stage / "eval-test" / "predictions.parquet")
    about = {"checkpoint": checkpoint_digest(stage / "best.safetensors")}
    (stage / "eval-test" / "metrics.json").write_text(json.dumps({"split": "test", "about": about}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "runs" / "good", seed=0, skill=3.0),
        make_run(tmp_path / "runs" / "bad", seed=1, skill=0.2, count=38),
    ]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_shows_the_difference_and_writes_it_down(runs, tmp_path):
    shown = call(*runs)
    for word in (
        "good/stage1",
        "bad/stage1",
        "linear_probe",
        "difference to the first",
        "DeLong",
        "< 0.001",
        "38 test samples",
        "blend",
    ):
        assert word in shown
    assert "what good/stage1, bad/stage1 learnt from can't be told" in shown  # and is not taken for seen
    out = tmp_path / "runs" / "compare-test"
    assert {path.name for path in out.iterdir()} == {"compare.json", "datasets.png", "methods.png"}
    made = json.loads((out / "compare.json").read_text())
    assert made["split"] == "test"
    assert made["samples"]["lost"] == {"good/stage1": 2, "bad/stage1": 0}
    assert str(tmp_path) not in json.dumps(made)


def test_json_is_the_file_and_any_metric_may_be_asked_for(runs, tmp_path):
    made = json.loads(call(*runs, "--metric", "eer", "--json", "--out", tmp_path / "here"))
    assert made == json.loads((tmp_path / "here" / "compare.json").read_text())
    assert made["metric"] == "eer"
    assert made["runs"][1]["difference"] > 0
    assert "DeLong" not in call(*runs, "--metric", "tpr_at_fpr.0.01")


def test_runs_of_one_name_in_two_folders(runs, tmp_path):
    other = make_run(tmp_path / "elsewhere" / "good", seed=2, skill=1.0)
    made = json.loads(call(*runs, other, "--json"))
    assert [row["run"] for row in made["runs"]] == ["runs/good/stage1", "bad/stage1", "elsewhere/good/stage1"]
    assert made["samples"]["lost"] == {"runs/good/stage1": 2, "bad/stage1": 0, "elsewhere/good/stage1": 2}
    with pytest.raises(ConfigError, match="Name each run once"):
        call(runs[0], runs[0] / "stage1")


def test_what_can_not_be_compared(runs):
    with pytest.raises(ConfigError, match="at least two"):
        call(runs[0])
    (runs[1] / "stage1" / "eval-test" / "metrics.json").unlink()  # an evaluation that was cut short
    with pytest.raises(RunError, match=r"`d2st eval .*bad/stage1 --split test` first"):
        call(*runs)
    with pytest.raises(RunError, match="does not exist"):
        call(runs[0], runs[1].parent / "none")
