"""`d2st cache verify`, `repair` and `gc` from the command line: exit codes, what they say, and JSON."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2st.cache.errors import ManifestError, StoreError
from d2st.cli.cache import app
from d2st.pipeline.manifest import SCHEMA, sample_id, write_manifest


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with eight images, their manifest and their store."""
    root = tmp_path_factory.mktemp("built")
    rows, random = [], np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(root / f"{i}.png")
        row = {"sample_id": sample_id("toy", f"{i}.png"), "path": f"{i}.png", "kind": "image", "label": i % 2, "dataset": "toy"}
        more = {"method": ("real", "swap")[i % 2], "split": ("train", "val")[i // 6], "video_id": str(i), "identity": [str(i)]}
        rows.append(dict.fromkeys(SCHEMA) | row | more)
    write_manifest(pl.DataFrame(rows, schema=SCHEMA), root / "m.parquet", root=root)
    options = "--detector none --backbone d2st-test --pretrained random:0 --crop-size 32 --layers last --workers 1 --device cpu"
    done = run("build", root / "m.parquet", "--cache", root / "s", *options.split())
    assert done.exit_code == 0, done.output
    return root


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def store(built, tmp_path):
    shutil.copytree(built / "s", tmp_path / "s")
    return tmp_path / "s"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_store(store):
    done = run("verify", store, "--deep")
    assert done.exit_code == 0
    assert "is whole" in done.output
    assert "GB/s" in done.output
    document = json.loads(run("verify", store, "--json").stdout)
    assert document["whole"] is True
    assert document["damages"] == document["samples"] == []
    assert run("repair", store, "--device", "cpu").exit_code == 0


def test_damage_is_shown_mended_and_gone(store, built):
    flip(store / "crops/frames/c/0/0/0/0", 32 * 32 * 3 * 2)
    done = run("verify", store, "--deep")
    assert done.exit_code == 1
    assert "crops/frames/c/0/0/0/0" in done.output
    assert "samples hit: 1 (" in done.output
    assert f"next: d2st cache repair {store} --root DIR" in done.output
    document = json.loads(run("verify", store, "--deep", "--json").stdout)
    assert len(document["samples"]) == 1
    assert document["damages"][0]["mend"] == "crop"
    assert document["repair"].startswith("d2st cache repair")

    done = run("repair", store, "--device", "cpu")
    assert done.exit_code == 1
    assert "1 damages are left" in done.output
    done = run("repair", store, "--root", built, "--device", "cpu", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert "is whole again" in done.output
    assert run("verify", store, "--deep").exit_code == 0


def test_a_lost_manifest_names_the_command(store):
    (store / "manifest.parquet").unlink()
    done = run("verify", store)
    assert done.exit_code == 1
    assert "next: d2st cache build MANIFEST --cache" in done.output


def test_gc_drops_what_a_manifest_lacks(store, built, tmp_path):
    rows = pl.read_parquet(built / "m.parquet")
    write_manifest(rows[:5], tmp_path / "less.parquet", root=built)
    dry = run("gc", store, "--manifest", tmp_path / "less.parquet", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would free" in dry.output
    done = json.loads(run("gc", store, "--manifest", tmp_path / "less.parquet", "--json").stdout)
    assert (len(done["samples"]), done["frames"], done["rewritten"]) == (3, 3, 1)
    assert run("verify", store, "--deep").exit_code == 0
    assert "nothing that can go" in run("gc", store).output


def test_gc_refuses_a_manifest_of_other_samples(store, built, tmp_path):
    """A scan of the same media under another dataset name has other ids: gc once emptied the store."""
    rows = pl.read_parquet(built / "m.parquet")
    other = rows.with_columns(pl.Series("sample_id", [sample_id("renamed", path) for path in rows["path"]]))
    write_manifest(other, tmp_path / "other.parquet", root=built)
    done = run("gc", store, "--manifest", tmp_path / "other.parquet")
    assert isinstance(done.exception, ManifestError)
    assert "none of the 8 samples" in str(done.exception)
    assert "nothing that can go" in run("gc", store).output


def test_what_is_no_store(tmp_path):
    for command in ("verify", "repair", "gc"):
        done = run(command, tmp_path)
        assert isinstance(done.exception, StoreError), command
