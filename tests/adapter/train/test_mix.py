"""Shares of strata against hand-made numbers, and what must hold of any mix: margins, caps, and no sample that comes and goes."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2st.adapter.train import load_recipe, run_training
from d2st.adapter.train.mix import apportion, fit_shares, mix_note, stratum_quotas
from d2st.cache.errors import ConfigError


def strata_of(counts):
    """{(dataset, kind, label): available} as a frame."""
    rows = [(*names, count) for names, count in sorted(counts.items())]
    return pl.DataFrame(rows, schema=["dataset", "kind", "label", "available"], orient="row")


def grid(counts):
    """Counts of data sets a, b x image, video x fake, real, in that order."""
    names = [(d, k, y) for d in "ab" for k in ("image", "video") for y in ("fake", "real")]
    return strata_of(dict(zip(names, counts, strict=True)))


def share(mixed, axis, value, column="chosen"):
    return mixed.filter(pl.col(axis) == value)[column].sum() / mixed[column].sum()


def test_one_named_axis_by_hand():
    found = stratum_quotas(grid([10, 30, 20, 40, 50, 50, 60, 40]), mix={"dataset": {"a": 1, "b": 1}}, max_samples=80)
    assert found["asked"].to_list() == [4, 12, 8, 16, 10, 10, 12, 8]  # 40 each, in the proportions that there are
    assert found["chosen"].to_list() == found["asked"].to_list()


def test_without_a_limit_the_shares_hold_in_the_largest_selection():
    found = stratum_quotas(grid([10, 30, 20, 40, 50, 50, 60, 40]), mix={"dataset": {"a": 2, "b": 1}}, max_samples=0)
    assert found["chosen"].to_list() == [10, 30, 20, 40, 13, 12, 15, 10]  # all of a; b's 50 as 12.5, 12.5, 15, 10
    free = stratum_quotas(grid([10, 30, 20, 40, 50, 50, 60, 40]), mix={}, max_samples=0)
    assert free["chosen"].to_list() == free["available"].to_list()


def test_a_short_stratum_gives_all_and_raises_no_other():
    found = stratum_quotas(grid([3, 3, 3, 3, 100, 100, 100, 100]), mix={"dataset": {"a": 1, "b": 1}}, max_samples=80)
    assert found["asked"].to_list() == [10] * 8
    assert found["chosen"].to_list() == [3] * 4 + [10] * 4
    # a limit beyond what there is asks for shares of what there is
    wide = stratum_quotas(grid([90, 0, 0, 10, 0, 0, 0, 0]), mix={"kind": {"image": 1, "video": 1}}, max_samples=10**6)
    assert wide["asked"].to_list()[:4] == [50, 0, 0, 50]
    assert wide["chosen"].to_list()[:4] == [50, 0, 0, 10]


def test_a_named_axis_leaves_out_the_rest_and_absent_values_leave_their_share():
    counts = grid([5, 5, 5, 5, 5, 5, 5, 5])
    found = stratum_quotas(counts, mix={"dataset": {"a": 1, "gone": 9}, "kind": {"video": 1}}, max_samples=8)
    assert found.filter(pl.col("chosen") > 0).select("dataset", "kind", "chosen").rows() == [("a", "video", 4)] * 2
    nothing = stratum_quotas(counts, mix={"dataset": {"gone": 1}}, max_samples=8)
    assert nothing["chosen"].sum() == nothing["asked"].sum() == 0


def test_shares_that_contradict_each_other_are_refused():
    counts = strata_of({("a", "video", "fake"): 50, ("b", "video", "real"): 50})  # b is real alone
    with pytest.raises(ConfigError, match=r"no selection .* data.mix"):
        stratum_quotas(counts, mix={"dataset": {"a": 3, "b": 1}, "label": {"real": 1, "fake": 1}}, max_samples=0)
    agreed = stratum_quotas(counts, mix={"dataset": {"a": 3, "b": 1}, "label": {"real": 1, "fake": 3}}, max_samples=0)
    assert agreed["chosen"].to_list() == [50, 17]


MIXES = st.fixed_dictionaries(
    {
        "dataset": st.dictionaries(st.sampled_from("ab"), st.floats(0.1, 10)),
        "label": st.dictionaries(st.sampled_from(["real", "fake"]), st.floats(0.1, 10)),
        "kind": st.dictionaries(st.sampled_from(["image", "video"]), st.floats(0.1, 10)),
    }
)


@given(counts=st.lists(st.integers(1, 400), min_size=8, max_size=8), mix=MIXES, limit=st.integers(1, 900))
@settings(max_examples=150, deadline=None)
def test_margins_hold_caps_hold_and_odds_are_kept(counts, mix, limit):
    strata = grid(counts)
    exact, some = (stratum_quotas(strata, mix=mix, max_samples=n) for n in (0, limit))
    for found in (exact, some):
        assert (found["chosen"] == found.select(pl.min_horizontal("asked", "available")).to_series()).all()
    assert (exact["chosen"] == exact["asked"]).all()
    inside = some.filter(*(pl.col(axis).is_in(list(named)) for axis, named in mix.items() if named))
    assert some["asked"].sum() == min(limit, inside["available"].sum())
    for axis, named in mix.items():
        for value, relative in named.items():
            wanted = relative / sum(named.values())
            for found in (exact, some):
                total = found["asked"].sum()
                assert abs(share(found, axis, value, "asked") - wanted) * total <= 8  # each stratum is rounded once
    shares = fit_shares(
        strata["available"].to_numpy(), {axis: (strata[axis].to_numpy(), named) for axis, named in mix.items() if named}
    )
    table = (shares / np.array(counts)).reshape(2, 2, 2)  # products of a factor an axis: that is what fitting keeps
    if (shares > 0).all():
        odds = table[0, 0, 0] * table[1, 1, 0] / (table[0, 1, 0] * table[1, 0, 0])
        assert odds == pytest.approx(1, rel=1e-6)


@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=9), total=st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_whole_numbers_add_up_and_only_grow(shares, total):
    shares = np.array(shares)
    assume(shares.sum() > 1e-3)
    shares = shares / shares.sum()
    fewer, more = apportion(shares, total), apportion(shares, total + 1)
    assert fewer.sum() == total
    assert (more - fewer).min() >= 0
    assert (more - fewer).sum() == 1
    assert (np.abs(fewer - shares * total) <= len(shares)).all()
    assert (fewer[shares == 0] == 0).all()


def test_apportionment_is_websters():
    # quotients by 1, 3, 5, ... of 7, 4, 1: 7, 4, 2.33, 1.4, 1.33, ... (Balinski and Young, Fair Representation, 1982)
    seats = [apportion(np.array([7, 4, 1]) / 12, total).tolist() for total in (1, 2, 3, 4, 5, 12)]
    assert seats == [[1, 0, 0], [1, 1, 0], [2, 1, 0], [3, 1, 0], [3, 2, 0], [7, 4, 1]]


def test_the_note_says_what_is_missing():
    everything = stratum_quotas(grid([5] * 8), mix={}, max_samples=0)
    assert mix_note(everything) is None
    some = stratum_quotas(grid([90, 90, 5, 5, 0, 0, 0, 50]), mix={"kind": {"image": 1, "video": 1}}, max_samples=100)
    assert mix_note(some) == "training on 100 of 240 samples: a 58 of 190, b 42 of 50"
    short = stratum_quotas(grid([3, 30, 0, 0, 100, 100, 0, 0]), mix={"dataset": {"a": 1, "b": 1}}, max_samples=88)
    assert mix_note(short).endswith(
        ": a 33 of 33, b 44 of 200 (a has 3 fake images, not 4; a has 30 real images, not 40; --max-samples 0 keeps the shares)"
    )
    many = strata_of({(f"d{i}", "image", y): 10 for i in range(6) for y in ("fake", "real")})
    assert mix_note(stratum_quotas(many, mix={}, max_samples=60)).endswith("d3 10 of 20 and 2 data sets more")


def test_a_run_keeps_its_mix_and_tells_of_it(store, tmp_path):
    events = []
    changes = ["data.mix.kind.image=1", "data.mix.kind.video=2", "data.mix.label.real=1", "data.mix.label.fake=1"]
    run_training(
        store,
        stages=[1],
        runs=tmp_path,
        name="mixed",
        adapter="linear_probe",
        max_samples=18,
        device="cpu",
        overrides=[*changes, "optim.epochs=1"],
        on_event=events.append,
    )
    strata = json.loads((tmp_path / "mixed/stage1/mix.json").read_text())["strata"]
    assert {(row["kind"], row["label"]): (row["available"], row["chosen"]) for row in strata} == {
        ("image", "fake"): (6, 3),
        ("image", "real"): (6, 3),
        ("video", "fake"): (6, 6),
        ("video", "real"): (6, 6),
    }
    chosen = pl.read_parquet(tmp_path / "mixed/stage1/samples.parquet").filter(pl.col("split") == "train")
    assert chosen.group_by("kind").len().sort("kind").rows() == [("image", 6), ("video", 12)]
    assert any(event.get("message") == "stage 1: training on 18 of 24 samples: toy 18 of 24" for event in events)
    assert load_recipe(tmp_path / "mixed/stage1/recipe.toml").data.mix.kind == {"image": 1.0, "video": 2.0}
