"""Repair: after any damage the store is byte for byte what it was; what can't be mended is named and left alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2st.cache import Store
from d2st.cache.arrays import group_metadata
from d2st.cache.claims import Claims
from d2st.cache.errors import StoreError
from d2st.cache.gc import collect
from d2st.cache.verify import verify
from d2st.pipeline.build.reencode import encode_set
from d2st.pipeline.build.remake import Sources
from d2st.pipeline.build.repair import repair
from d2st.pipeline.build.run import build
from d2st.pipeline.clip import Encoder, load_backbone

FORMAT1 = Path(__file__).parents[2] / "cache" / "format1.d2st"


pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, media, detector, settings, small_shards):
    """A store with an int8 set and a float16 one."""
    path = tmp_path_factory.mktemp("whole") / "s.d2st"
    root, manifest = media
    encoders = [
        Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ("block_0", "block_2"), micro_batch=8, dtype=dtype)
        for dtype in ("int8", "float16")
    ]
    build(manifest, path, root=root, detector=detector, settings=settings, encoder=encoders[0], workers=1)
    encode_set(path, "half", encoders[1])
    return path


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s.d2st")
    return tmp_path / "s.d2st"


@pytest.fixture
def sources(media):
    return Sources(root=media[0], workers=1)


def tree(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


DAMAGES = {
    "metadata": lambda s: [flip(s / name, 30) for name in ("zarr.json", "crops/zarr.json", "tokens/block_0/scales/zarr.json")],
    "lost metadata": lambda s: [
        (s / n).unlink() for n in ("tokens/zarr.json", "tokens-half/block_2/maps/zarr.json", "zarr.json")
    ],
    "all array metadata": lambda s: [path.unlink() for path in s.glob("tokens*/*/*/zarr.json")],
    "plan": lambda s: (s / "plan/00000.parquet").unlink(),
    "index": lambda s: flip(s / "crops/frames/c/1/0/0/0", -9),
    "longer": lambda s: (s / "tokens/block_0/maps/c/1/0/0/0").open("ab").write(b"junk"),
    "a frame of crops": lambda s: flip(s / "crops/frames/c/0/0/0/0", 5000),
    "crops cut": lambda s: (s / "crops/frames/c/2/0/0/0").write_bytes((s / "crops/frames/c/2/0/0/0").read_bytes()[:7000]),
    "crops lost": lambda s: [(s / f"crops/frames/c/{k}/0/0/0").unlink() for k in (0, 3)],
    "crops ledger": lambda s: flip(s / "crops/ledger/000001.parquet", 77),
    "crops and their ledger": lambda s: shutil.rmtree(s / "crops/frames/c/1") or (s / "crops/ledger/000001.parquet").unlink(),
    "a frame of tokens": lambda s: flip(s / "tokens-half/block_2/maps/c/1/0/0/0", 999),
    "tokens ledger": lambda s: (s / "tokens/ledger/000002.parquet").unlink(),
    "statistics": lambda s: (
        (s / "tokens/moments/000000.safetensors").unlink() or flip(s / "tokens-half/moments/000001.safetensors", 400)
    ),
    "calibration": lambda s: flip(s / "tokens/calibration.safetensors", 300),
    "swapped": lambda s: [
        (s / "t").write_bytes((s / "crops/frames/c/0/0/0/0").read_bytes()),
        (s / "crops/frames/c/1/0/0/0").rename(s / "crops/frames/c/0/0/0/0"),
        (s / "t").rename(s / "crops/frames/c/1/0/0/0"),
    ],
    "ledgers swapped": lambda s: shutil.copy(s / "crops/ledger/000000.parquet", s / "crops/ledger/000001.parquet"),
    "much at once": lambda s: [
        flip(s / "crops/frames/c/1/0/0/0", 100),
        flip(s / "tokens/block_0/cls/c/1/0", 3),
        (s / "crops/zarr.json").unlink(),
        (s / "tokens/block_2/maps/zarr.json").unlink(),
        (s / "plan/00000.parquet").write_bytes(b""),
    ],
}


@pytest.mark.parametrize("how", DAMAGES)
def test_after_repair_the_store_is_what_it_was(store, sources, how):
    before = tree(store)
    DAMAGES[how](store)
    assert tree(store) != before
    report = repair(store, sources=sources)
    assert report.left == []
    assert report.mended
    after = tree(store)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
    assert verify(store, deep=True).damages == []


def test_a_whole_store_is_not_touched(store, sources):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert repair(store, sources=sources).found == 0
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_files_that_are_whole_are_not_written_again(store, sources):
    flip(store / "crops/frames/c/0/0/0/0", 5000)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and "/claims/" not in str(path)}
    repair(store, sources=sources)
    changed = {path.relative_to(store).as_posix() for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {"crops/frames/c/0/0/0/0", "crops/ledger/000000.parquet"}


def test_without_media_crops_are_left_and_the_rest_is_mended(store):
    flip(store / "crops/frames/c/0/0/0/0", 5000)
    flip(store / "tokens/block_0/maps/c/1/0/0/0", 50)
    flip(store / "crops/zarr.json", 50)
    before = tree(store)
    report = repair(store, sources=Sources())
    assert [(damage.file, why) for damage, why in report.left] == [
        ("crops/frames/c/0/0/0/0", "1 samples must be cropped again: name the media's folder with --root")
    ]
    assert set(report.mended) == {"tokens/block_0/maps/c/1/0/0/0", "crops/zarr.json"}
    assert tree(store)["crops/frames/c/0/0/0/0"] == before["crops/frames/c/0/0/0/0"]


def test_a_file_that_has_gone_costs_no_other_sample(store, media, tmp_path):
    shutil.copytree(media[0], tmp_path / "media")
    for path in (tmp_path / "media").iterdir():
        path.unlink()
    flip(store / "crops/frames/c/0/0/0/0", 5000)
    before = tree(store)
    report = repair(store, sources=Sources(root=tmp_path / "media", workers=1))
    ((damage, why),) = report.left
    assert damage.samples[0] in why
    assert "can't be made again" in why
    assert tree(store) == before


def test_weights_that_are_not_at_hand_cost_nothing(store):
    flip(store / "tokens/block_0/maps/c/1/0/0/0", 50)
    (store / "tokens/moments/000003.safetensors").unlink()
    before = tree(store)
    report = repair(store, sources=Sources(pretrained="random:1"))  # other weights: those that the store names are taken
    assert report.left == []
    flip(store / "tokens/block_0/maps/c/1/0/0/0", 50)
    document = json.loads((store / "tokens/zarr.json").read_text())["attributes"]
    document["d2st"]["notes"] = {"pretrained": "random:2"}
    document.pop("d2st_seal")
    (store / "tokens/zarr.json").write_bytes(group_metadata(document))
    before = tree(store)
    report = repair(store, sources=Sources())
    ((damage, why),) = report.left
    assert damage.file == "tokens/block_0/maps/c/1/0/0/0"
    assert "--pretrained" in why
    assert tree(store) == before
    assert repair(store, sources=Sources(pretrained="random:0")).left == []


def test_a_lost_manifest_must_be_built_again(store, sources, media, detector, settings):
    (store / "manifest.parquet").unlink()
    flip(store / "tokens/block_0/maps/c/1/0/0/0", 50)
    report = repair(store, sources=sources)
    assert {why for _, why in report.left} == {"its manifest is needed: run d2st cache build MANIFEST first"}
    Store.open(store).write_manifest(media[1])
    assert repair(store, sources=sources).left == []


def test_crops_that_come_out_otherwise_get_new_token_maps(store, media, tmp_path):
    shutil.copytree(media[0], tmp_path / "media")
    for path in (tmp_path / "media").glob("*.png"):
        Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save(path)
    for k in range(len(list((store / "crops/ledger").iterdir()))):
        (store / f"crops/frames/c/{k}/0/0/0").unlink()
    report = repair(store, sources=Sources(root=tmp_path / "media", workers=1))
    assert report.left == []
    assert 0 < report.tokens < 2 * report.crops  # a shard without an image stays
    assert verify(store, deep=True).damages == []


def test_after_gc_repair_and_encoding_respect_the_holes(store, sources, media):
    ids = Store.open(store).samples()["sample_id"].to_list()
    collect(store, wanted=set(ids[::2]))
    before = tree(store)
    flip(store / "crops/frames/c/0/0/0/0", 500)
    (store / "tokens/ledger/000001.parquet").unlink()
    flip(store / "tokens-half/block_0/maps/c/2/0/0/0", 77)
    assert repair(store, sources=sources).left == []
    after = tree(store)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
    encode_set(
        store, "other", Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ("block_0", "block_2"), micro_batch=8)
    )
    assert verify(store, deep=True).damages == []
    ours, theirs = ({n: d for n, d in tree(store / f).items() if "/c/" in n} for f in ("tokens-half", "tokens-other"))
    assert ours == theirs


def test_old_stores_and_busy_ones_are_refused(store, sources, tmp_path):
    shutil.copytree(FORMAT1, tmp_path / "old")
    flip(tmp_path / "old/crops/frames/c/0/0/0/0", 50)
    with pytest.raises(StoreError, match="older d2st"):
        repair(tmp_path / "old", sources=sources)
    flip(store / "crops/zarr.json", 50)
    with Claims(store / "claims", purpose="build"), pytest.raises(StoreError, match="is in use"):
        repair(store, sources=sources)
