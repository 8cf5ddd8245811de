"""Views from the command line: build, encode, look, train, go on, score."""

import json
import os
import runpy
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from d2st.adapter.train import run_training
from d2st.cache import Store
from d2st.cache.errors import ConfigError
from d2st.cli.app import app
from d2st.pipeline.manifest import write_manifest

BUILD = (
    "--detector",
    "none",
    "--backbone",
    "d2st-test",
    "--pretrained",
    "random:0",
    "--layers",
    "0,2",
    "--frames",
    4,
    "--workers",
    1,
)
VIEWS = ("main", "flip", "bright", "flip-bright")
TRAIN = (
    "adapter.params={width=16}",
    "optim.epochs=2",
    "optim.batch_size=2",
    f"data.views={json.dumps(VIEWS)}",
    "data.frames=4",
    "optim.precision=float32",
)


def d2st(*arguments, fails=None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if fails is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, fails)
    return result


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with media/ and faces.d2st, 48 px into a backbone of 32, with three views; int8, so that they share a calibration."""
    folder = tmp_path_factory.mktemp("views")
    toys = runpy.run_path(str(Path(__file__).parents[1] / "pipeline" / "build" / "conftest.py"))
    (folder / "media").mkdir()
    manifest = toys["_make_media"](folder / "media", videos=12, images=0)
    splits = pl.Series(["train"] * 8 + ["val"] * 4, dtype=manifest.schema["split"])
    write_manifest(manifest.with_columns(split=splits), folder / "faces.parquet", root=folder / "media")
    cache = folder / "faces.d2st"
    d2st("cache", "build", folder / "faces.parquet", "--cache", cache, *BUILD, "--image-size", 48, "--dtype", "int8")
    made = d2st("cache", "encode", cache, "--as", "flip", "--view", "flip")
    assert """--set 'data.views=["main", "flip"]'""" in made.stdout
    d2st("cache", "encode", cache, "--as", "bright", "--view", "brightness=0.2")
    d2st("cache", "encode", cache, "--as", "flip-bright", "--view", "flip", "--view", "brightness=0.2")
    return folder


def test_views_are_made_like_the_main_set(project):
    found = json.loads(d2st("cache", "info", project / "faces.d2st", "--json").stdout)
    sets = found["token_sets"]
    assert set(sets) == set(VIEWS)
    assert found["crops"]["config"]["size"] == 48  # crops follow the size of the backbone's input
    for name, tokens in sets.items():
        assert tokens["grid"] == [6, 6]
        assert tokens["frames"] == sets["main"]["frames"] > 0
        assert {**tokens["config"], "view": 0} == {**sets["main"]["config"], "view": 0}, name
    assert "view" not in sets["main"]["config"]
    shown = d2st("cache", "info", project / "faces.d2st").stdout
    for words in ("mirrored", "brightness times 0.8 to 1.2", "48 px"):
        assert words in shown
    d2st("cache", "verify", project / "faces.d2st", "--deep")


def test_a_view_is_described_by_known_words(project):
    refused = d2st("cache", "encode", project / "faces.d2st", "--as", "x", "--view", "mirror", fails=ConfigError)
    assert "flip" in refused.exception.fix
    assert Store.open(project / "faces.d2st").token_sets() == ["main", "bright", "flip", "flip-bright"]


def test_a_run_on_views_goes_on_bit_for_bit_and_scores_files(project, tmp_path):
    cache, runs = project / "faces.d2st", tmp_path / "runs"
    sets = [part for item in TRAIN for part in ("--set", item)]
    d2st("train", "--cache", cache, "--stage", 2, "--init", "none", "--runs", runs, "--name", "whole", "--device", "cpu", *sets)

    def stop(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)

    options = {"stages": (2,), "runs": runs, "name": "stopped", "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        run_training(Store.open(cache), **options, overrides=TRAIN, init="none", on_event=stop)
    d2st("train", "--cache", cache, "--stage", 2, "--runs", runs, "--name", "stopped", "--device", "cpu", "--resume")
    files = [
        [runs / run / "stage2" / file for file in ("best.safetensors", "last.safetensors")] for run in ("whole", "stopped")
    ]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    result = json.loads((runs / "whole/stage2/result.json").read_text())
    assert list(result["views"]) == sorted(VIEWS)

    scored = d2st("predict", project / "media/v9.mp4", "--run", runs / "whole", "--device", "cpu", "--workers", 1, "--json")
    assert 0 <= json.loads(scored.stdout)[0]["score"] <= 1


def test_without_its_views_the_recipe_says_what_is_missing(project, tmp_path):
    cache = tmp_path / "s.d2st"
    shutil.copytree(project / "faces.d2st", cache, ignore=shutil.ignore_patterns("tokens-*"))
    refused = d2st(
        "train", "--cache", cache, "--recipe", "dfd-card", "--runs", tmp_path / "runs", "--device", "cpu", fails=ConfigError
    )
    assert "no token set named 'flip'" in str(refused.exception)
    assert "d2st cache encode" in refused.exception.fix
    assert not (tmp_path / "runs").exists()
