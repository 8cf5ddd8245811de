"""One flipped bit in each kind of file of a store, through the command line: `verify` finds it and names the samples that are hit, `repair`
mends it, and the rest of the store stays byte for byte."""

import json
import random
import shutil

import pytest

from d2st.pipeline.manifest import write_manifest

OPTIONS = (
    *("--backbone", "d2st-test", "--pretrained", "random:0", "--layers", "0,2", "--micro-batch", "8", "--detector", "none"),
    *("--frames", "4", "--crop-size", "32", "--device", "cpu", "--workers", "1", "--dtype", "int8"),
)
FILES = {
    "zarr.json": "zarr.json",
    "manifest": "manifest.parquet",
    "plan": "plan/00000.parquet",
    "level": "tokens/zarr.json",
    "array": "tokens/block_2/scales/zarr.json",
    "array of the channels": "tokens/block_0/cls/zarr.json",
    "crops ledger": "crops/ledger/000001.parquet",
    "tokens ledger": "tokens/ledger/000001.parquet",
    "calibration": "tokens/calibration.safetensors",
    "statistics": "tokens/moments/000001.safetensors",
    "crops": "crops/frames/c/1/0/0/0",
    "maps": "tokens/block_0/maps/c/1/0/0/0",
    "scales": "tokens/block_2/scales/c/1/0/0",
    "cls": "tokens/block_0/cls/c/1/0",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_media, server, harness):
    """(store, its files, manifest, root, a function that runs a command)."""
    folder = tmp_path_factory.mktemp("flips")
    root = folder / "media"
    root.mkdir()
    rows = make_media(root, videos=1, images=7)
    write_manifest(rows, folder / "m.parquet", root=root)

    def run(store, *arguments):
        return server.run({"job": "cli", "store": str(store), "arguments": ["cache", *arguments], "watch": False}).result

    store = folder / "s"
    built = run(store, "build", str(folder / "m.parquet"), "--cache", str(store), *OPTIONS)
    assert built["code"] == 0, built
    assert run(store, "verify", str(store), "--deep")["code"] == 0
    return store, harness.files_of(store), folder / "m.parquet", root, run


def in_shard_1(store):
    import io

    import polars as pl

    part = pl.read_parquet(io.BytesIO((store / "crops/ledger/000001.parquet").read_bytes()))
    return part.sort("start")


@pytest.mark.parametrize("kind", FILES)
def test_a_flipped_bit_is_found_and_mended(world, harness, tmp_path, kind):
    whole, files, manifest, root, run = world
    store = tmp_path / "s"
    shutil.copytree(whole, store)
    path = store / FILES[kind]
    data = bytearray(path.read_bytes())
    at = random.Random(kind).randrange(len(data) - (4 * 16 + 4))  # not in the index of a shard, see below
    data[at] ^= 1 << at % 8
    path.write_bytes(data)

    seen = [run(store, "verify", str(store), *more, "--json") for more in ([], ["--deep"])]
    assert [result["code"] for result in seen] == [int("/c/" not in FILES[kind]), 1], "flips in frames are for --deep"
    quick, deep = (json.loads(result["out"]) for result in seen)
    assert [damage["file"] for damage in deep["damages"]] == [FILES[kind]]
    assert quick["damages"] == ([] if "/c/" in FILES[kind] else deep["damages"])
    rows = in_shard_1(whole)
    if "/c/" in FILES[kind]:
        frame = at // ((len(data) - 4 * 16 - 4) // rows["frames"].sum())
        owner = next(s for s, begin, n in rows.select("sample_id", "start", "frames").rows() if begin <= 4 + frame < begin + n)
        assert deep["samples"] == [owner]
        if kind == "maps":
            shown = run(store, "verify", str(store), "--deep")
            assert shown["code"] == 1
            assert owner in shown["out"]
            assert "d2st cache repair" in shown["out"]
    elif "ledger" in kind or kind == "statistics":
        assert deep["samples"] == sorted(rows["sample_id"])

    if kind == "manifest":  # nothing else knows it
        assert run(store, "repair", str(store), "--root", str(root))["code"] == 1
        assert run(store, "build", str(manifest), "--cache", str(store), *OPTIONS)["code"] == 0
    else:
        mended = run(store, "repair", str(store), "--root", str(root))
        assert mended["code"] == 0, mended
        assert "whole again" in mended["out"]
    found = harness.files_of(store)
    if kind == "level":  # where its weights were is noted nowhere else: kept if the flip leaves it legible
        assert run(store, "verify", str(store), "--deep")["code"] == 0
        declared, before = (json.loads(content[FILES[kind]])["attributes"]["d2st"] for content in (found, files))
        assert declared["config"] == before["config"]
        found[FILES[kind]] = files[FILES[kind]]
    assert found == files
    assert harness.left_behind(store) == []


def test_a_flip_in_the_index_of_a_shard_is_seen_by_the_quick_check_too(world, harness, tmp_path):
    whole, files, _, _, run = world
    store = tmp_path / "s"
    shutil.copytree(whole, store)
    path = store / FILES["maps"]
    data = bytearray(path.read_bytes())
    data[-30] ^= 4
    path.write_bytes(data)
    for more in ([], ["--deep"]):
        shown = run(store, "verify", str(store), *more)
        assert shown["code"] == 1
        assert FILES["maps"] in shown["out"]
    assert run(store, "repair", str(store))["code"] == 0, "neither media nor CLIP are needed"
    assert harness.files_of(store) == files


def test_what_the_store_says_twice_may_be_lost_once(world, harness, tmp_path):
    """The plan and a crops' ledger part: token maps of that shard still know its samples."""
    whole, files, _, root, run = world
    store = tmp_path / "s"
    shutil.copytree(whole, store)
    for name in ("plan/00000.parquet", FILES["crops ledger"]):
        (store / name).write_bytes(b"lost")
    assert run(store, "repair", str(store), "--root", str(root))["code"] == 0
    assert harness.files_of(store) == files
