"""Which samples are trained on: never test, never across identities, the same ones for the same seed."""

from itertools import pairwise

import polars as pl
import pytest

from d2st.adapter.train.select import select_samples, to_rows
from d2st.cache.errors import ConfigError, ManifestError

BOTH = ("image", "video")


@pytest.fixture
def samples(store):
    return store.samples()


def relabel(samples, **columns):
    return samples.with_columns(**columns)


def test_only_train_and_val_of_the_wanted_kinds(samples):
    chosen = select_samples(samples, kinds=("video",))
    assert set(chosen.train["split"]) == {"train"}
    assert set(chosen.val["split"]) == {"val"}
    assert set(chosen.train["kind"]) == {"video"}
    assert set(select_samples(samples, kinds=BOTH).train["kind"]) == {"image", "video"}


def test_frame_folders_are_videos(samples):
    folders = relabel(samples, kind=pl.col("kind").cast(pl.String).replace("video", "frames").cast(samples.schema["kind"]))
    chosen = select_samples(folders, kinds=("video",))
    assert set(chosen.train["kind"]) == {"frames"}
    assert to_rows(chosen.train).is_video.all()


def test_rows_are_those_of_the_cache(samples):
    rows = to_rows(samples)
    assert rows.ids == tuple(samples["sample_id"])
    assert (rows.start[1:] == rows.start[:-1] + rows.frames[:-1]).all()  # the toy store is laid out by id


def test_max_samples_keeps_proportions_and_nests(samples):
    for seed in (0, 1):
        kept = [set(select_samples(samples, kinds=BOTH, max_samples=n, seed=seed).train["sample_id"]) for n in (8, 12, 20)]
        assert [len(part) for part in kept] == [8, 12, 20]
        assert kept[0] < kept[1] < kept[2]
    counts = select_samples(samples, kinds=BOTH, max_samples=8).train.group_by("label", "kind").len()["len"]
    assert counts.to_list() == [2, 2, 2, 2]
    other = set(select_samples(samples, kinds=BOTH, max_samples=8, seed=5).train["sample_id"])
    assert other != set(select_samples(samples, kinds=BOTH, max_samples=8, seed=0).train["sample_id"])
    assert select_samples(samples.reverse(), kinds=BOTH, max_samples=8).train.equals(
        select_samples(samples, kinds=BOTH, max_samples=8).train
    )


def test_shuffled_labels_keep_counts_videos_and_everything_else(samples):
    grouped = relabel(
        samples,
        video_id=pl.col("sample_id").str.slice(0, 7) + pl.col("label").cast(pl.String) + pl.col("split").cast(pl.String),
    )
    plain, shuffled = (select_samples(grouped, kinds=BOTH, shuffle_labels=flag) for flag in (False, True))
    for before, after in ((plain.train, shuffled.train), (plain.val, shuffled.val)):
        assert before.drop("label").equals(after.drop("label"))
        assert (
            after.group_by("video_id").agg(pl.col("label").n_unique())["label"].to_list() == [1] * after["video_id"].n_unique()
        )
    plain, shuffled = (select_samples(samples, kinds=BOTH, shuffle_labels=flag) for flag in (False, True))
    assert not plain.train["label"].equals(shuffled.train["label"])
    for kind in BOTH:
        sums = [part.train.filter(pl.col("kind") == kind)["label"].sum() for part in (plain, shuffled)]
        assert sums[0] == sums[1]


def test_an_identity_in_two_splits_is_refused_by_name(samples):
    shared = relabel(
        samples,
        identity=pl.when(pl.col("sample_id").is_in(["video0000", "video0008"])).then(pl.lit(["ada"])).otherwise("identity"),
    )
    with pytest.raises(ManifestError, match=r"'ada' in test and train") as caught:
        select_samples(shared, kinds=BOTH)
    assert "allow_identity_overlap" in caught.value.fix
    assert select_samples(shared, kinds=BOTH, allow_identity_overlap=True).train.height == 24


def test_a_video_in_two_splits_is_refused(samples):
    shared = relabel(
        samples, video_id=pl.when(pl.col("sample_id").is_in(["video0000", "video0006"])).then(pl.lit("v")).otherwise("video_id")
    )
    with pytest.raises(ManifestError, match="videos appear in two splits"):
        select_samples(shared, kinds=BOTH)


@pytest.mark.parametrize(
    ("condition", "kinds", "says"),
    [
        (pl.col("split") != "val", BOTH, "no image or video in the val split"),
        (pl.col("split") == "test", BOTH, "no image or video in the train split"),
        (pl.col("kind") == "image", ("video",), "no video in the train split"),
        ((pl.col("split") != "train") | (pl.col("label") == 1), BOTH, "the train split has 0 real"),
        ((pl.col("split") != "val") | (pl.col("label") == 0), BOTH, "the val split has 0 fake"),
        (pl.col("sample_id").is_in(["video0000", "video0001", "video0006", "video0007"]), BOTH, "needs 2 or more"),
    ],
)
def test_what_can_not_be_trained_on_is_refused(samples, condition, kinds, says):
    with pytest.raises(ConfigError, match=says):
        select_samples(samples.filter(condition), kinds=kinds)


def test_stage_three_needs_both_labels_of_both_kinds(samples):
    lame = samples.filter((pl.col("kind") == "video") | (pl.col("label") == 1))
    assert select_samples(lame, kinds=BOTH).train.height == 18
    with pytest.raises(ConfigError, match=r"0 real among its 6 samples \(image\)"):
        select_samples(lame, kinds=BOTH, need_all_kinds=True)


@pytest.fixture
def two_sets(samples):
    """The toy samples as two data sets, b of every fifth pair."""
    return samples.with_columns(
        dataset=pl.when(pl.col("sample_id").str.slice(-1).is_in(["2", "3"])).then(pl.lit("b")).otherwise(pl.lit("a"))
    )


def test_a_mix_is_held_recorded_and_the_same_whatever_the_order(two_sets):
    mix = {"dataset": {"a": 1.0, "b": 1.0}, "label": {}, "kind": {}}
    chosen = select_samples(two_sets, kinds=BOTH, mix=mix)
    counts, there = (
        dict(part["dataset"].value_counts().rows()) for part in (chosen.train, two_sets.filter(pl.col("split") == "train"))
    )
    assert counts == {"a": min(there.values()), "b": min(there.values())}
    assert chosen.mix.columns == ["dataset", "kind", "label", "available", "asked", "chosen"]
    assert chosen.mix["available"].sum() == 24
    found = chosen.train.group_by(
        "dataset",
        pl.col("kind").cast(pl.String),
        label=pl.when(pl.col("label") == 1).then(pl.lit("fake")).otherwise(pl.lit("real")),
    ).len()
    listed = chosen.mix.filter(pl.col("chosen") > 0).select("dataset", "kind", "label", "chosen")
    assert sorted(found.rows()) == sorted(listed.rows())
    assert select_samples(two_sets.reverse(), kinds=BOTH, mix=mix).train.equals(chosen.train)
    assert chosen.val.height == two_sets.filter(pl.col("split") == "val").height  # validation is not mixed


def test_a_mix_with_a_larger_limit_only_adds(two_sets):
    mix = {"dataset": {"a": 1.0, "b": 2.0}, "kind": {"image": 1.0, "video": 2.0}}
    kept = [set(select_samples(two_sets, kinds=BOTH, mix=mix, max_samples=n).train["sample_id"]) for n in range(8, 30)]
    assert all(fewer <= more for fewer, more in pairwise(kept))
    assert len(kept[0]) <= 8
    assert len(kept[-1]) > len(kept[0])


def test_kinds_of_other_stages_may_be_named_but_data_sets_must_exist(two_sets):
    folders = two_sets.with_columns(
        kind=pl.col("kind").cast(pl.String).replace("video", "frames").cast(two_sets.schema["kind"])
    )
    clips = select_samples(folders, kinds=("video",), mix={"kind": {"image": 3.0, "video": 1.0}})
    assert clips.train.height == 12
    assert set(clips.mix["kind"]) == {"video"}
    stills = two_sets.with_columns(dataset=pl.col("kind").cast(pl.String))  # a data set of images alone, named for all stages
    assert select_samples(stills, kinds=("video",), mix={"dataset": {"image": 1.0, "video": 1.0}}).train.height == 12
    with pytest.raises(ConfigError, match=r"data.mix.dataset names 'ffpp'") as caught:
        select_samples(two_sets, kinds=BOTH, mix={"dataset": {"ffpp": 1.0, "a": 1.0}})
    assert "'a', 'b'" in caught.value.fix


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ({"label": {"fake": 1.0}}, r"data.mix.label leaves 0 real among 12 training samples \(image or video\)"),
        ({"dataset": {"fakes": 1.0}}, "data.mix.dataset leaves 0 real"),
        ({"dataset": {"fakes": 1.0}, "kind": {"image": 1.0}}, "data.mix.dataset with data.mix.kind leaves 0 real"),
        ({"label": {"fake": 1000.0, "real": 1.0}}, "data.mix.label leaves 0 real among 12"),
    ],
)
def test_a_mix_that_leaves_a_class_out_is_refused(samples, mix, says):
    sets = samples.with_columns(dataset=pl.when(pl.col("label") == 1).then(pl.lit("fakes")).otherwise(pl.lit("reals")))
    with pytest.raises(ConfigError, match=says):
        select_samples(sets, kinds=BOTH, mix=mix)


def test_stage_three_refuses_a_mix_without_a_kind(samples):
    with pytest.raises(ConfigError, match=r"data.mix.kind leaves 0 real among 0 training samples \(image\)"):
        select_samples(samples, kinds=BOTH, mix={"kind": {"video": 1.0}}, need_all_kinds=True)
    with pytest.raises(ConfigError, match=r"data.max_samples=1 leaves"):
        select_samples(samples, kinds=BOTH, max_samples=1)
