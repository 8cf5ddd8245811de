"""Stores, levels, plans and ledgers: what exists is what was committed; a config that differs is refused by name."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import FingerprintError, StoreError
from d2st.cache.fingerprint import differing_fields, fingerprint
from d2st.cache.ledger import LEDGER_SCHEMA, read_digests
from d2st.cache.level import ensure_level, open_level
from d2st.cache.moments import merge, moments_of
from d2st.cache.plan import extend_plan, plan_shards, read_plan
from d2st.cache.shard import FileDigest
from d2st.cache.store import Store, locked_for_building


def samples(slots, prefix="s"):
    return pl.DataFrame(
        {"sample_id": [f"{prefix}{i:05d}" for i in range(len(slots))], "slots": slots, "counted": [True] * len(slots)},
        schema={"sample_id": pl.String, "slots": pl.Int32, "counted": pl.Boolean},
    )


def ledger_rows(shard, count=2):
    return pl.DataFrame(
        [[f"s{shard}{i}", shard * SHARD_FRAMES + i, 1, 1, None, "", "{}"] for i in range(count)],
        schema=LEDGER_SCHEMA,
        orient="row",
    )


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
    level.commit(3, ledger_rows(3), {}, {"crops/x": FileDigest(10, 7)})
    level.commit(1, ledger_rows(1), {}, {})
    assert level.committed() == {1, 3}
    assert level.rows()["sample_id"].to_list() == ["s10", "s11", "s30", "s31"]
    assert read_digests(level.ledger, 3) == {"crops/x": FileDigest(10, 7)}


def test_committing_twice_gives_the_same_bytes(tmp_path):
    level = ensure_level(tmp_path, "crops", {"size": 224})
    level.commit(0, ledger_rows(0), {}, {})
    first = (level.ledger / "000000.parquet").read_bytes()
    level.commit(0, ledger_rows(0), {}, {})
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
    with pytest.raises(StoreError, match="does not match its fingerprint"):
        open_level(tmp_path, "crops")


def test_fingerprint_ignores_order_alone():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert differing_fields({"a": None}, {}) == ["a"]


def test_a_damaged_ledger_part_is_named(tmp_path):
    level = ensure_level(tmp_path, "crops", {})
    level.commit(0, ledger_rows(0), {}, {})
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


def test_one_builder_at_a_time_and_leftovers_go(tmp_path):
    (tmp_path / ".shard.123.partial").write_bytes(b"torn")
    with locked_for_building(tmp_path):
        assert not (tmp_path / ".shard.123.partial").exists()
        with pytest.raises(StoreError, match="another process is building"), locked_for_building(tmp_path):
            pass
    with locked_for_building(tmp_path):
        pass


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
