"""`d2st eval --perturb` from the command line: the clean curve point is the cached score, nothing is written into the store."""

import json
import os
import runpy
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from d2st.adapter.train.checkpoint import build_detector, save_checkpoint
from d2st.cache import Store
from d2st.cache.errors import UnknownNameError, UsageError, WeightsError
from d2st.cli import robustness
from d2st.cli.app import app
from d2st.pipeline.manifest import write_manifest

BUILD = ("--detector", "none", "--backbone", "d2st-test", "--pretrained", "random:0", "--layers", "0,2", "--frames", 4)


def d2st(*arguments, fails=None):
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    if fails is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, fails), result.exception
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with faces.d2st (int8) and runs/all with two stages, T = 1 and T = 3, of random weights."""
    folder = tmp_path_factory.mktemp("perturbed")
    (folder / "media").mkdir()
    toys = runpy.run_path(str(Path(__file__).parents[1] / "pipeline" / "build" / "conftest.py"))
    manifest = toys["_make_media"](folder / "media", videos=12, images=12)
    splits = pl.Series((["train"] * 4 + ["val"] * 4 + ["test"] * 4) * 2, dtype=manifest.schema["split"])
    write_manifest(manifest.with_columns(split=splits), folder / "faces.parquet", root=folder / "media")
    cache = folder / "faces.d2st"
    d2st("cache", "build", folder / "faces.parquet", "--cache", cache, "--workers", 1, "--dtype", "int8", *BUILD)
    tokens = Store.open(cache).tokens
    torch.manual_seed(0)
    for stage, frames in ((1, 1), (2, 3)):
        meta = {
            "adapter": "meanpool_mlp",
            "adapter_params": {"width": 16},
            "layers": list(tokens.layers),
            "channels": tokens.channels,
        }
        meta |= {
            "grid": list(tokens.grid),
            "stage": stage,
            "clip_frames": frames,
            "config": tokens.config,
            "notes": tokens.notes,
        }
        detector = build_detector(meta, tokens.stats)
        torch.nn.init.normal_(detector.head.linear.weight)
        home = folder / "runs" / "all" / f"stage{stage}"
        home.mkdir(parents=True)
        save_checkpoint(home / "best.safetensors", detector, meta=meta, stats=tokens.stats, calibration=tokens.calibration)
        (home / "fingerprint.json").write_text(json.dumps({"cache_path": "../../../faces.d2st"}))
    return folder


def files_of(store):
    return {path: path.stat().st_mtime_ns for path in store.rglob("*")}


@pytest.mark.usefixtures("unplotted")
@pytest.mark.parametrize("stage", [1, 2])
def test_the_curves_start_at_the_cached_scores(project, tmp_path, stage):
    before = files_of(project / "faces.d2st")
    run = project / "runs" / "all" / f"stage{stage}"
    shown = d2st("eval", run, "--perturb", "all", "--out", tmp_path)
    assert files_of(project / "faces.d2st") == before
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert found["clean"]["largest_difference_from_cache"] == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for kind in ("image", "video"):
        assert found["clean"]["kinds"][kind]["auc"] == metrics["kinds"][kind]["video"]["auc"]
        assert found["clean"]["kinds"][kind]["interval"] == metrics["kinds"][kind]["video"]["intervals"]["auc"]
    assert found["samples"] == {"scored": 8, "available": 8, "clip_frames": (1, 3)[stage - 1], "seed": 0}
    assert list(found["perturbations"]) == ["jpeg", "blur", "noise", "resize", "h264"]
    assert all(len(entry["severities"]) == 5 for entry in found["perturbations"].values())
    assert str(project) not in json.dumps(found)

    scores = pl.read_parquet(tmp_path / "robustness.parquet").sort("sample_id")
    cached = pl.read_parquet(tmp_path / "predictions.parquet").sort("sample_id")
    assert scores.filter(pl.col("severity") == 0)["score"].equals(cached["score"])
    for name in found["perturbations"]:
        worst = scores.filter((pl.col("perturbation") == name) & (pl.col("severity") == 5))
        assert (worst["score"] != cached["score"]).any(), name
    assert (tmp_path / "plots" / "robustness.png").stat().st_size > 10_000
    for word in ("26 passes over", "of 8 samples, about", "AUC by severity", "sigma, of 255", "h264"):
        assert word in shown.output, word


@pytest.mark.usefixtures("unplotted")
def test_json_and_a_part_of_the_samples(project, tmp_path):
    options = ("--perturb", "noise", "--max-samples", 4, "--out", tmp_path, "--json")
    found = json.loads(d2st("eval", project / "runs" / "all", *options).stdout)["robustness"]
    assert found == json.loads((tmp_path / "robustness.json").read_text())
    assert (found["samples"]["scored"], found["samples"]["available"]) == (4, 8)
    assert {(level["n_real"], level["n_fake"]) for level in found["clean"]["kinds"].values()} == {(1, 1)}
    assert found["clean"]["largest_difference_from_cache"] < 1e-6


@pytest.mark.usefixtures("unplotted")
def test_passes_that_are_done_survive_a_stop(project, tmp_path, monkeypatch):
    run, options = project / "runs" / "all", ("--perturb", "noise", "--out", tmp_path / "stopped")
    d2st("eval", run, "--perturb", "noise", "--out", tmp_path / "whole")
    done, real = [], robustness.score_changed

    def stops(study, chosen, change, **others):
        if len(done) == 3 and others:  # the estimate has none
            raise OSError("pulled the plug")
        made = real(study, chosen, change, **others)
        done.extend([1] * bool(others))
        return made

    monkeypatch.setattr(robustness, "score_changed", stops)
    d2st("eval", run, *options, fails=OSError)
    kept = sorted((tmp_path / "stopped" / "perturb").iterdir())
    assert len(kept) == 3
    kept[0].write_bytes(b"damaged")
    done.clear()
    d2st("eval", run, *options[:2], "--max-samples", 4, *options[2:], fails=OSError)  # other samples: nothing is taken over
    assert len(list((tmp_path / "stopped" / "perturb").iterdir())) == 6
    monkeypatch.setattr(robustness, "score_changed", real)
    shown = d2st("eval", run, *options)
    assert "3 of 6 passes are there" in shown.output
    assert "3 passes over" in shown.output
    assert not (tmp_path / "stopped" / "perturb").exists()
    for name in ("robustness.json", "robustness.parquet"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_weights_may_lie_elsewhere_but_must_be_the_same(project, tmp_path):
    run, options = project / "runs" / "all", ("--perturb", "jpeg", "--out", tmp_path, "--pretrained")
    d2st("eval", run, *options, "random:1", fails=WeightsError)
    assert not os.listdir(tmp_path)  # before anything was scored
    d2st("eval", run, *options, tmp_path / "gone.safetensors", fails=WeightsError)


def test_wrong_options_cost_no_work(project, tmp_path):
    run = project / "runs" / "all"
    d2st("eval", run, "--perturb", "jpeg,fog", "--out", tmp_path, fails=UnknownNameError)
    d2st("eval", run, "--max-samples", 4, "--out", tmp_path, fails=UsageError)
    d2st("eval", run, "--pretrained", "random:0", "--out", tmp_path, fails=UsageError)
    assert not os.listdir(tmp_path)
