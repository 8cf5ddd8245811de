"""Stores, levels, plans and ledgers: what exists is what was committed; a config that differs is refused by name."""

import json
import shutil
import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.errors import ConfigError, FingerprintError, StoreError
from d2st.cache.fingerprint import differing_fields, fingerprint
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level, open_level
from d2st.cache.moments import add_frames, merge, moments_bytes, moments_name, moments_of, read_moments
from d2st.cache.plan import extend_plan, plan_shards, read_plan
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store


def samples(slots, prefix="s"):
    return pl.DataFrame(
        {"sample_id": [f"{prefix}{i:05d}" for i in range(len(slots))], "slots": slots},
        schema={"sample_id": pl.String, "slots": pl.Int32},
    )


def ledger_rows(shard, count=2):
    return pl.DataFrame(
        [[f"s{shard}{i}", shard * SHARD_FRAMES + i, 1, 1, None, "", "{}"] for i in range(count)],
        schema=LEDGER_SCHEMA,
        orient="row",
    )


def commit(level, shard, rows, **more):
    with level.stage(shard) as staged:
        return staged.commit(rows, **more)


@given(st.lists(st.integers(0, 40), max_size=200))
def test_no_sample_straddles_a_shard_and_none_is_lost(slots):
    plan = plan_shards(samples(slots))
    assert plan["sample_id"].to_list() == samples(slots)["sample_id"].to_list()
    assert plan["shard"].is_sorted()
    if slots:
        assert plan.group_by("shard").agg(pl.col("slots").sum())["slots"].max() <= SHARD_FRAMES


def test_the_plan_appends_and_never_moves_a_sample(tmp_path):
    first = extend_plan(tmp_path, samples([12] * 100))
    both = extend_plan(tmp_path, pl.concat([samples([12] * 100), samples([1] * 50, "a")]))
    assert both[:100].equals(first)
    assert both[100:]["shard"].min() == first["shard"].max() + 1
    assert extend_plan(tmp_path, samples([12] * 10)).equals(both)
    assert read_plan(tmp_path).equals(both)


def test_a_level_holds_what_was_committed_and_no_more(tmp_path):
    level = ensure_level(tmp_path, "crops", {"size": 224})
    assert level.rows().is_empty()
    assert commit(level, 3, ledger_rows(3), source="abc")
    assert commit(level, 1, ledger_rows(1))
    assert level.committed() == {1, 3}
    assert level.rows()["sample_id"].to_list() == ["s10", "s11", "s30", "s31"]
    assert level.part(3).source == "abc"
    assert level.part(3).config == {"size": 224}
    assert level.part(3).content != level.part(1).content


def test_whoever_commits_second_changes_nothing(tmp_path):
    level = ensure_level(tmp_path, "crops", {"size": 224})
    ensure_array(level.array("frames"), frame_shape=(2,), dtype="uint8", shards=1, attributes={})
    with level.stage(0) as slow, level.stage(0) as fast:
        for staged, value in ((slow, 1), (fast, 2)):
            staged.writer("frames", frame_dims=1).append(np.full((2, 2), value, np.uint8))
        assert fast.commit(ledger_rows(0))
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and ".staging" not in str(path)}
        assert not slow.commit(ledger_rows(0))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    out = np.empty((2, 2), np.uint8)
    ArrayReader(level.array("frames")).read([0, 1], out)
    assert (out == 2).all()


def test_committing_twice_gives_the_same_bytes(tmp_path):
    level = ensure_level(tmp_path, "crops", {"size": 224})
    commit(level, 0, ledger_rows(0))
    first = (level.ledger / "000000.parquet").read_bytes()
    level.withdraw(0)
    assert level.committed() == set()
    commit(level, 0, ledger_rows(0))
    assert (level.ledger / "000000.parquet").read_bytes() == first


def test_another_config_is_refused_and_the_field_named(tmp_path):
    ensure_level(tmp_path, "crops", {"size": 224, "detector": {"name": "mtcnn", "score": 0.9}, "layers": ("a",)})
    ensure_level(tmp_path, "crops", {"layers": ["a"], "detector": {"score": 0.9, "name": "mtcnn"}, "size": 224})
    with pytest.raises(FingerprintError, match=r"detector\.score is 0.9 there, 0.8 here") as caught:
        ensure_level(tmp_path, "crops", {"size": 224, "detector": {"name": "mtcnn", "score": 0.8}, "layers": ["a"]})
    assert caught.value.fields == ["detector.score"]


def test_a_config_changed_by_hand_is_noticed(tmp_path):
    level = ensure_level(tmp_path, "crops", {"size": 224})
    document = json.loads((level.path / "zarr.json").read_text())
    document["attributes"]["d2st"]["config"]["size"] = 225
    (level.path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="fails its own checksum"):
        open_level(tmp_path, "crops")


def test_fingerprint_ignores_order_alone():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert differing_fields({"a": None}, {}) == ["a"]


def test_a_damaged_ledger_part_is_named(tmp_path):
    level = ensure_level(tmp_path, "crops", {})
    commit(level, 0, ledger_rows(0))
    (level.ledger / "000000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StoreError, match=r"000000\.parquet is damaged"):
        level.rows()


def test_opening_what_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="no d2st store"):
        Store.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is no d2st store"):
        Store.ensure(tmp_path)
    with pytest.raises(StoreError, match="no token maps yet"):
        _ = Store.ensure(tmp_path / "new").tokens


def test_samples_that_are_tried_again_move_and_their_old_rows_no_longer_hold(tmp_path):
    store = Store.ensure(tmp_path / "s")
    level = ensure_level(store.path, "crops", {"size": 1})
    ids = ["s00", "s01"]
    extend_plan(store.path / "plan", pl.DataFrame({"sample_id": ids, "slots": [1, 1]}))
    rejected = ledger_rows(0).with_columns(
        reason=pl.Series([None, "no_face"]),
        start=pl.Series([0, None], dtype=pl.Int64),
        frames=pl.Series([1, 0], dtype=pl.Int32),
    )
    commit(level, 0, rejected)
    plan = extend_plan(store.path / "plan", pl.DataFrame({"sample_id": ids, "slots": [1, 1]}), again={"s01": 0})
    assert dict(plan.select("sample_id", "shard").rows()) == {"s00": 0, "s01": 1}
    assert store.current(level)["sample_id"].to_list() == ["s00"]
    row = ledger_rows(0)[1:].with_columns(start=pl.lit(SHARD_FRAMES, pl.Int64))
    commit(level, 1, row)
    assert store.current(level)["start"].to_list() == [0, SHARD_FRAMES]


def test_stray_copies_of_parts_are_no_parts(tmp_path):
    """`000000 (copy).parquet`, as file managers and synchronisers make them, once ended every command in a ValueError."""
    store = Store.ensure(tmp_path / "s")
    level = ensure_level(store.path, "crops", {"size": 1})
    for ids in (["s00"], ["s00", "s01"]):
        extend_plan(store.path / "plan", pl.DataFrame({"sample_id": ids, "slots": [1] * len(ids)}))
    commit(level, 0, ledger_rows(0)[:1])
    for name in ("crops/ledger/000000", "plan/00000", "plan/00001"):
        shutil.copy(store.path / f"{name}.parquet", store.path / f"{name} (copy).parquet")
    assert level.committed() == {0}
    extend_plan(store.path / "plan", pl.DataFrame({"sample_id": ["s02"], "slots": [1]}))
    assert (store.path / "plan/00002.parquet").exists()
    assert store.current(level)["sample_id"].to_list() == ["s00"]


def test_a_copy_that_stopped_being_one_gets_a_place(tmp_path):
    extend_plan(tmp_path, samples([1, 0]))
    plan = extend_plan(tmp_path, samples([1, 12]))
    assert plan.rows() == [("s00000", 0, 1), ("s00001", 1, 12)]
    assert extend_plan(tmp_path, samples([1, 12])).equals(plan)


def test_builders_that_plan_at_once_lose_nothing_and_share_no_shard(tmp_path):
    groups = [samples([12] * 40, prefix) for prefix in "abcdef"]
    threads = [threading.Thread(target=extend_plan, args=(tmp_path, group)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan = read_plan(tmp_path)
    assert set(plan["sample_id"]) == {name for group in groups for name in group["sample_id"]}
    shared = plan.with_columns(group=pl.col("sample_id").str.head(1)).group_by("shard").agg(pl.col("group").n_unique())
    assert shared["group"].max() == 1


def test_a_token_set_is_known_by_name(tmp_path):
    store = Store.ensure(tmp_path / "s")
    for folder, layers in (
        ("tokens", ["block_2"]),
        ("tokens+1", ["block_10"]),
        ("tokens+2", ["block_1"]),
        ("tokens-l14", ["block_0"]),
    ):
        level = ensure_level(store.path, folder, {"layers": layers})
        for layer in layers:
            ensure_array(level.array(f"{layer}/maps"), frame_shape=(2, 3, 4), dtype="float16", shards=1, attributes={})
    assert store.token_sets() == ["main", "l14"]
    assert store.tokens.layers == ("block_1", "block_2", "block_10")
    assert store.tokens.fingerprint == fingerprint({"layers": ["block_1", "block_2", "block_10"]})
    assert store.tokens.array("block_10", "maps") == store.path / "tokens+1" / "block_10" / "maps"
    assert Store.open(store.path, tokens="l14").tokens.layers == ("block_0",)
    with pytest.raises(StoreError, match="no token set named b32"):
        _ = Store.open(store.path, tokens="b32").tokens
    with pytest.raises(ConfigError, match="can't name a token set"):
        _ = Store.open(store.path, tokens="../x").tokens


def test_statistics_do_not_depend_on_how_a_shard_is_cut(tmp_path):
    frames = np.random.default_rng(0).normal(2, 5, size=(20, 3, 3, 8)).astype(np.float16)
    whole = add_frames(None, frames)
    parts = add_frames(add_frames(add_frames(None, frames[:0]), frames[:7]), frames[7:])
    assert moments_bytes({"a": whole}, counted="x") == moments_bytes({"a": parts}, counted="x")
    path = tmp_path / moments_name(3)
    path.parent.mkdir()
    path.write_bytes(moments_bytes({"a": whole}, counted="x"))
    found, counted = read_moments(path)
    assert counted == "x"
    np.testing.assert_array_equal(found["a"].m2, whole.m2)
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    with pytest.raises(StoreError, match="fails its own checksum"):
        read_moments(path)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_merged_moments_are_those_of_the_whole(sizes, seed):
    parts = [np.random.default_rng(seed + i).normal(3, 10.0**i, size=(n, 2, 4)) for i, n in enumerate(sizes)]
    whole = np.concatenate(parts).reshape(-1, 4).astype(np.float32).astype(np.float64)
    total = moments_of(parts[0])
    for part in parts[1:]:
        total = merge(total, moments_of(part))
    np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-4, atol=1e-4 * whole.std())
    np.testing.assert_allclose(total.std, whole.std(0), rtol=1e-3, atol=1e-6)


def test_moments_of_a_large_offset_do_not_cancel():
    values = (1000 + np.random.default_rng(0).normal(size=(50000, 3))).astype(np.float32)
    np.testing.assert_allclose(moments_of(values).std, values.astype(np.float64).std(0), rtol=1e-4)
