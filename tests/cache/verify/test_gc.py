"""`gc`: what is dropped is gone and its room given back, what stays does not move; stopped anywhere, the same command goes on."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.claims import Claims
from d2st.cache.errors import StoreError
from d2st.cache.gc import collect
from d2st.cache.moments import moments_name, read_moments
from d2st.cache.plan import extend_plan, plan_parts
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store
from d2st.cache.verify import verify

FORMAT1 = Path(__file__).parents[1] / "format1.d2st"
IDS = {f"s{i}" for i in range(9)}


def tree(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def values(path: Path) -> dict[tuple[str, str], bytes]:
    """Every frame that a reader sees, by array and sample."""
    found = {}
    handle = Store.open(path)
    levels = [handle.crops, *(level for name in handle.token_sets() for level in handle.token_levels(name))]
    for level in levels:
        rows = handle.current(level).filter(pl.col("reason").is_null())
        for array in [file.parent for file in (*level.path.glob("*/zarr.json"), *level.path.glob("*/*/zarr.json"))]:
            with ArrayReader(array) as reader:
                for sample, start, frames in rows.select("sample_id", "start", "frames").iter_rows():
                    out = np.empty((frames, *reader.frame_shape), reader.dtype)
                    reader.read(np.arange(start, start + frames), out)
                    found[array.relative_to(path).as_posix(), sample] = (start, out.tobytes())
    return found


def shard_bytes(store: Path) -> int:
    return sum(len(data) for name, data in tree(store).items() if "/c/" in name)


def test_a_dropped_sample_leaves_and_nothing_else_moves(store):
    before, seen, size = tree(store), values(store), shard_bytes(store)
    done = collect(store, wanted=IDS - {"s3"})
    assert (done.samples, done.frames, done.rewritten, done.removed, done.superseded) == (["s3"], 3, 1, 0, 0)
    assert done.bytes == size - shard_bytes(store) > 0
    assert values(store) == {key: value for key, value in seen.items() if key[1] != "s3"}
    with pytest.raises(StoreError, match="has left the store"), ArrayReader(store / "crops/frames") as reader:
        reader.read([SHARD_FRAMES], np.empty((1, 4, 4, 3), np.uint8))
    result = verify(store, deep=True)
    assert (result.damages, result.notes) == ([], [])
    after = tree(store)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert all("/c/1/" in name or "/000001." in name or name in ("plan/00000.parquet", "manifest.parquet") for name in changed)
    assert "s3" not in Store.open(store).samples()["sample_id"].to_list()
    assert "s3" not in Store.open(store).plan()["sample_id"].to_list()


def test_statistics_are_those_of_the_frames_that_stay(store):
    collect(store, wanted=IDS - {"s1"})
    handle = Store.open(store)
    level = handle.token_levels("half")[0]
    found, _ = read_moments(level.path / moments_name(0))
    with ArrayReader(level.array("block_0/maps")) as reader:
        out = np.empty((3, *reader.frame_shape), reader.dtype)
        reader.read(np.arange(3), out)  # s0, the one training sample left; s2 is of the test split
    expected = (out.astype(np.uint32) << 16).view(np.float32).reshape(-1, 4).astype(np.float64)
    assert found["block_0"].count == len(expected)
    np.testing.assert_allclose(found["block_0"].mean, expected.mean(0), rtol=1e-6, atol=1e-30)


def test_a_shard_that_holds_nothing_goes_and_its_number_stays_used(store):
    done = collect(store, wanted=IDS - {"s6", "s7", "s8"})
    assert (done.rewritten, done.removed, done.frames) == (0, 1, 9)
    assert not [name for name in tree(store) if "/c/2" in name or "/000002." in name]
    assert verify(store, deep=True).damages == []
    plan = extend_plan(store / "plan", pl.DataFrame({"sample_id": ["s6"], "slots": [128]}))
    assert plan.filter(sample_id="s6")["shard"].item() == 3


def test_a_shard_with_rejected_samples_alone_keeps_their_rows(store):
    collect(store, wanted=IDS - {"s3", "s5"})
    handle = Store.open(store)
    assert handle.rejected()["sample_id"].to_list() == ["s4"]
    assert handle.crops.part(1).files == {}
    assert not (store / "crops/frames/c/1").exists()
    assert verify(store, deep=True).damages == []
    assert collect(store).rewritten == 0


def test_superseded_rows_go_without_touching_a_frame(store):
    extend_plan(store / "plan", pl.DataFrame({"sample_id": ["s4"], "slots": [128]}), again={"s4": 1})
    before = tree(store)
    done = collect(store)
    assert (done.samples, done.superseded, done.frames, done.bytes, done.rewritten) == ([], 1, 0, 0, 1)
    after = tree(store)
    assert not [name for name in before if "/c/" in name and before[name] != after[name]]
    assert Store.open(store).crops.part(1).rows["sample_id"].to_list() == ["s3", "s5"]
    assert verify(store, deep=True).damages == []


def test_with_nothing_to_drop_no_file_is_written(store):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    done = collect(store)
    assert (done.bytes, done.rewritten, done.removed) == (0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_a_dry_run_says_what_the_real_one_does(store):
    (store / "plan" / ".00009.parquet.1.partial").write_bytes(b"12345")
    before, wanted = tree(store), IDS - {"s0", "s3", "s6", "s7", "s8"}
    dry = collect(store, wanted=wanted, dry_run=True)
    assert tree(store) == before
    real = collect(store, wanted=wanted)
    dry.dry_run, dry.seconds = real.dry_run, real.seconds
    assert dry == real
    assert sum(map(len, before.values())) > real.bytes == shard_bytes_of(before) - shard_bytes(store) + 5


def shard_bytes_of(files: dict[str, bytes]) -> int:
    return sum(len(data) for name, data in files.items() if "/c/" in name)


def test_files_of_somebody_else_are_left_alone(store):
    """`3 (copy)`, as file managers make them, once ended gc in a ValueError after its work."""
    for name in ("tokens/moments/000001 (copy).safetensors", "tokens/block_0/maps/c/1 (copy)", "plan/00000 (copy).parquet"):
        (store / name).write_bytes(b"x")
    assert collect(store).leftovers == 0
    assert (store / "tokens/block_0/maps/c/1 (copy)").exists()


def test_leftovers_of_killed_builders_go(store):
    before = tree(store)
    stage = store / "tokens/.staging/000007.abcdefabcdef/block_0/maps"
    stage.mkdir(parents=True)
    (stage / "x").write_bytes(b"x" * 100)
    (store / "crops/.zarr.json.77.partial").write_bytes(b"y" * 10)
    (store / "tokens/moments/000007.safetensors").write_bytes(b"z")
    (store / "crops/frames/c/7/0/0").mkdir(parents=True)
    (store / "crops/frames/c/7/0/0/0").write_bytes(b"zz")
    done = collect(store)
    assert (done.leftovers, done.bytes) == (4, 113)
    assert tree(store) == before


class Stop(BaseException):
    """Stands for a kill."""


def collect_until(store, wanted, patch, *, stop_after):
    """Run gc until so many changes of the disk are made; returns how many there were."""
    calls = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > stop_after:
                raise Stop
            return function(*args, **kwargs)

        return call

    for name in ("replace", "link", "unlink", "rmdir", "mkdir"):
        patch.setattr(os, name, counted(getattr(os, name)))
    with contextlib.suppress(Stop):
        collect(store, wanted=wanted)
    return calls


STOPS = int(os.environ.get("D2ST_STOPS", "9"))  # all of them, over 200, take minutes


def test_stopped_anywhere_the_store_stays_readable_and_the_same_command_goes_on(whole_store, tmp_path, monkeypatch):
    wanted = IDS - {"s1", "s3", "s5", "s6", "s7", "s8"}
    shutil.copytree(whole_store, tmp_path / "whole")
    with monkeypatch.context() as patch:
        steps = collect_until(tmp_path / "whole", wanted, patch, stop_after=10**9)
    expected, seen = tree(tmp_path / "whole"), values(tmp_path / "whole")
    assert seen == {key: value for key, value in values(whole_store).items() if key[1] in wanted}
    points = range(steps) if steps < STOPS else sorted(np.random.default_rng(0).choice(steps, STOPS, replace=False).tolist())
    for stop_after in points:
        store = tmp_path / f"s{stop_after}"
        shutil.copytree(whole_store, store)
        with monkeypatch.context() as patch:
            collect_until(store, wanted, patch, stop_after=stop_after)
        found = values(store)
        assert all(found[key] == seen[key] for key in seen), stop_after
        verify(store, deep=True)
        shutil.rmtree(store / "claims", ignore_errors=True)  # the process that was "killed" is this one, and lives
        collect(store, wanted=wanted)
        assert tree(store) == expected, stop_after
        assert verify(store, deep=True).damages == []
        shutil.rmtree(store)


def test_what_comes_back_gets_a_new_place(store):
    collect(store, wanted=IDS - {"s3"})
    plan = extend_plan(store / "plan", pl.DataFrame({"sample_id": sorted(IDS), "slots": [128] * 9}))
    assert plan.filter(sample_id="s3")["shard"].item() == 3
    assert len(plan_parts(store / "plan")) == 3


def test_damaged_busy_and_old_stores_are_refused(store, tmp_path):
    path = store / "tokens/block_1/maps/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    data[3 * 20 + 5] ^= 1  # a frame of s5
    path.write_bytes(data)
    before = tree(store)
    with pytest.raises(StoreError, match="repair"):
        collect(store, wanted=IDS - {"s3"})
    assert {n: d for n, d in tree(store).items() if "/tokens/" not in f"/{n}"} == {
        n: d for n, d in before.items() if "/tokens/" not in f"/{n}"
    }
    with Claims(store / "claims", purpose="build"), pytest.raises(StoreError, match="is in use"):
        collect(store)
    shutil.copytree(FORMAT1, tmp_path / "old")
    with pytest.raises(StoreError, match="older d2st"):
        collect(tmp_path / "old")
