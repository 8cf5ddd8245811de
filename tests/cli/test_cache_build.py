"""The commands that make shards: build, encode, add-layers and plan, on a handful of ready-made crops."""

import json
import shutil

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from d2st.cache import Store
from d2st.cache.errors import FingerprintError
from d2st.cli.app import app
from d2st.cli.cache.work import parse_part
from d2st.pipeline.manifest import read_manifest

SMALL = ["--backbone", "d2st-test", "--pretrained", "random:0", "--detector", "none", "--device", "cpu"]


def d2st(*arguments: object, fails: type[Exception] | None = None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if fails is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, fails)
    return result


@pytest.fixture
def manifest(tmp_path):
    for label in ("real", "fake"):
        (tmp_path / "media" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number + 10 * (label == "real")).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "media" / label / f"{number}.png")
    (tmp_path / "media" / "fake" / "4.png").write_text("no picture")
    d2st("manifest", "scan", tmp_path / "media", "--out", tmp_path / "faces.parquet")
    return tmp_path / "faces.parquet"


def test_build_encode_and_add_layers(tmp_path, manifest):
    cache = tmp_path / "faces.d2st"
    built = d2st("cache", "build", manifest, "--cache", cache, *SMALL, "--layers", "0")
    for words in ("how the stages were used", "encode", "busy", "left out: not_media", "next: d2st train"):
        assert words in built.stdout
    assert "4.png" in (cache / "rejected.csv").read_text()
    shutil.rmtree(tmp_path / "media")  # from here on no media are needed

    refused = d2st(
        "cache", "build", manifest, "--cache", cache, *SMALL, "--layers", "1", "--root", tmp_path, fails=FingerprintError
    )
    assert "cache add-layers" in refused.exception.fix
    d2st("cache", "add-layers", cache, "--layers", "1", "--device", "cpu")
    assert Store.open(cache).tokens.layers == ("block_0", "block_1")

    encoding = [option for option in SMALL if option not in ("--detector", "none")]
    made = d2st("cache", "encode", cache, "--as", "small", *encoding, "--layers", "0", "--dtype", "int8", "--json")
    document = json.loads(made.stdout)
    assert (document["built_crops"], document["built_tokens"], document["samples"]) == (0, 1, 8)
    assert Store.open(cache, tokens="small").tokens.dtype == "int8"
    again = d2st("cache", "encode", cache, "--as", "small", *encoding, "--layers", "0", "--dtype", "int8")
    assert "nothing to do" in again.stdout
    assert "--tokens small" in again.stdout


def test_a_build_of_new_samples_says_what_lacks_them(tmp_path, manifest):
    """Samples that added layers or a view lack are left out of training: once without a word."""
    first, cache = tmp_path / "first.parquet", tmp_path / "my [new] faces.d2st"
    read_manifest(manifest)[:4].write_parquet(first)
    build = ("cache", "build", "--cache", cache, *SMALL, "--layers", "0", "--root", tmp_path / "media")
    d2st(*build, first)
    d2st("cache", "add-layers", cache, "--layers", "1", "--device", "cpu")
    d2st("cache", "encode", cache, "--as", "flip", "--view", "flip", "--device", "cpu")
    assert "lacks" not in d2st(*build, first).stdout
    shown = d2st(*build, manifest).stdout
    assert "token set main lacks block_1 of 1 shards" in shown
    assert f"d2st cache add-layers '{cache}' --layers block_1 --tokens main" in shown
    assert "token set flip lacks block_0,block_1 of 1 shards" in shown
    assert f"next: d2st train --cache '{cache}' --stage all" in shown


def test_a_retry_does_not_count_its_predecessors_shards(tmp_path, manifest):
    build = ("cache", "build", manifest, "--cache", tmp_path / "s", *SMALL, "--layers", "0")
    d2st(*build)
    again = d2st(*build, "--retry")
    assert "left out: not_media" in again.stdout
    assert "how the stages were used" not in again.stdout  # nothing could be used, so there is nothing to tell
    shutil.copy(tmp_path / "media" / "fake" / "3.png", tmp_path / "media" / "fake" / "4.png")
    d2st(*build, "--retry")
    found = json.loads(d2st("cache", "info", tmp_path / "s", "--json").stdout)
    assert (found["crops"]["shards"], found["token_sets"]["main"]["shards"], found["planned_shards"]) == (2, 2, 2)


def test_a_part_says_how_much_of_the_store_is_there(tmp_path, manifest):
    result = d2st("cache", "build", manifest, "--cache", tmp_path / "s", *SMALL, "--layers", "0", "--shard", "2/2")
    assert "0 of 1 shards" in result.stdout
    with pytest.raises(typer.BadParameter, match="which part of how many"):
        parse_part("3/2")
    assert parse_part("1/2") == (1, 2)
    assert parse_part(None) is None


def test_a_store_named_by_a_relative_path(tmp_path, manifest, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = json.loads(d2st("cache", "build", "faces.parquet", "--cache", "s.d2st", *SMALL, "--layers", "0", "--json").stdout)
    assert (report["built_crops"], report["built_tokens"]) == (1, 1)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_plan_says_how_many_bytes_a_build_takes(tmp_path, manifest, monkeypatch, dtype):
    monkeypatch.setattr("d2st.pipeline.build.estimate.ENCODE_S", 0.1)
    monkeypatch.chdir(tmp_path)
    options = [manifest, *SMALL, "--layers", "0,2", "--dtype", dtype]
    before = {path.name for path in tmp_path.iterdir()}
    found = json.loads(d2st("cache", "plan", *options, "--json").stdout)
    assert (found["probed"], found["probed_rejected"], found["frames"]) == (9, 1, 8)
    assert found["seconds"] > 0
    assert {path.name for path in tmp_path.iterdir()} == before
    d2st("cache", "build", *options, "--cache", tmp_path / "s")
    for level in ("crops", "tokens"):
        real = sum(path.stat().st_size for path in (tmp_path / "s" / level).rglob("*") if path.is_file())
        assert found[f"{level.removesuffix('s')}_bytes"] == pytest.approx(real, rel=0.35)  # fixed costs of so few frames
    assert "each stage alone" in d2st("cache", "plan", *options).stdout
