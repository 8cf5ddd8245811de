"""New splits: nobody crosses, shares are met, what is kept is kept."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache.errors import UsageError
from d2st.pipeline.manifest import SCHEMA, check_manifest, sample_id
from d2st.pipeline.manifest.resplit import resplit


def manifest(people, splits=None):
    """A sample for each tuple of people; more than one person is a fake."""
    rows = [
        {
            "sample_id": sample_id("d", f"{number}.mp4"),
            "path": f"{number}.mp4",
            "kind": "video",
            "label": int(len(who) > 1),
            "dataset": "d",
            "method": "swap" if len(who) > 1 else "real",
            "split": splits[number] if splits else "train",
            "video_id": f"d/{number}",
            "identity": [f"d/{name}" for name in who],
        }
        for number, who in enumerate(people)
    ]
    return pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=2, unique=True), min_size=1, max_size=60),
    st.integers(0, 5),
    st.sampled_from([{"train": 70, "val": 15, "test": 15}, {"train": 1, "test": 1}, {"train": 34, "val": 33, "test": 33}]),
)
def test_nobody_crosses(people, seed, shares):
    made = resplit(manifest(people), shares=shares, seed=seed)
    assert not [finding for finding in check_manifest(made) if finding.code == "identity_leak"]
    assert set(made["split"].cast(pl.String)) <= set(shares)
    assert made.drop("split").equals(manifest(people).sort("sample_id").drop("split"))


def test_shares_and_seed():
    rows = manifest([(n,) for n in range(1000)])
    made = [resplit(rows, shares={"train": 80, "val": 20}, seed=seed)["split"].to_list() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert made[0].count("train") == pytest.approx(800, abs=2)


def test_kept_split_draws_its_people_along():
    people = [(n // 3,) for n in range(300)]
    splits = ["test" if n % 30 == 0 else "train" for n in range(300)]
    made = resplit(manifest(people, splits), shares={"train": 80, "val": 20}, keep=["test"])
    before = manifest(people, splits).sort("sample_id")
    kept = before.filter(pl.col("split") == "test")["sample_id"]
    assert set(made.filter(pl.col("sample_id").is_in(kept.implode()))["split"].cast(pl.String)) == {"test"}
    assert made.filter(pl.col("split") == "test").height == 3 * len(kept)


SENSELESS = [
    ({}, "no split is left"),
    ({"dev": 1.0}, "no split 'dev'"),
    ({"train": -1.0}, "no split is left"),
    ({"train": float("nan"), "val": 1.0}, "no split is left"),
    ({"train": 1.0, "test": 1.0}, "test is to be kept and to be filled"),
]


@pytest.mark.parametrize(("shares", "said"), SENSELESS)
def test_senseless_shares(shares, said):
    with pytest.raises(UsageError, match=said):
        resplit(manifest([(1,)]), shares=shares, keep=["test"])
