"""The modality gap on embeddings made to measure, and what must not move it."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from d2st.adapter.evaluate.embed import Embedded, embed_samples
from d2st.adapter.evaluate.gap import MEASURES, centroid_distance, choose, gap_between, modality_gap, probe_accuracy
from d2st.adapter.evaluate.run import evaluate_run
from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.nets import adapter_names
from d2st.cache import TokenLoader
from d2st.cache.errors import RunError


def cloud(*, each=50, channels=6, shift=0.0, turn=0.0, seed=0):
    """`each` samples of a kind and label: fakes lie 3 from the reals along channel 0; videos lie `shift` off along channel 1, and their
    fakes are turned by `turn` radians out of channel 0 into channel 2."""
    rng = np.random.default_rng(seed)
    label, is_video = np.tile([0, 1], 2 * each), np.repeat([False, True], 2 * each)
    vectors = rng.normal(size=(4 * each, channels))
    angle = np.where(is_video, turn, 0.0)
    vectors[:, 0] += 3 * label * np.cos(angle)
    vectors[:, 2] += 3 * label * np.sin(angle)
    vectors[:, 1] += shift * is_video
    return Embedded(vectors, label, is_video, np.array([f"v{i}" for i in range(4 * each)]))


def test_no_gap():
    found = gap_between(cloud(each=300), cloud(each=300, seed=1), seed=0)
    assert set(found) == set(MEASURES)
    assert found["centroid_real"] < 0.1
    assert found["centroid_fake"] < 0.1
    assert found["probe_accuracy"] == pytest.approx(0.5, abs=0.05)
    # two normal distributions 3 apart: AUC = Phi(3 / sqrt 2) = 0.983
    assert found["transfer_image_to_video"] == pytest.approx(0.983, abs=0.01)
    assert found["transfer_video_to_image"] == pytest.approx(0.983, abs=0.01)


def test_a_known_shift_is_found():
    found = gap_between(cloud(each=300, shift=2.0), cloud(each=300, shift=2.0, seed=1), seed=0)
    # 2 apart, spread of six unit channels sqrt 6
    assert found["centroid_real"] == pytest.approx(2 / np.sqrt(6), abs=0.05)
    assert found["centroid_fake"] == pytest.approx(2 / np.sqrt(6), abs=0.05)
    # the best boundary halves the way: Phi(1) = 0.841
    assert found["probe_accuracy"] == pytest.approx(0.841, abs=0.03)
    assert found["transfer_image_to_video"] == pytest.approx(0.983, abs=0.01)  # the shift is beside the boundary


def test_fakes_that_lie_elsewhere_cost_transfer():
    found = gap_between(cloud(each=300, turn=np.pi / 2), cloud(each=300, turn=np.pi / 2, seed=1), seed=0)
    assert found["transfer_image_to_video"] == pytest.approx(0.5, abs=0.06)
    assert found["transfer_video_to_image"] == pytest.approx(0.5, abs=0.06)
    assert found["centroid_real"] < 0.15
    assert found["centroid_fake"] == pytest.approx(3 * np.sqrt(2) / np.sqrt(6), abs=0.1)


def test_centroids_by_hand_and_unbiased():
    a, b = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 0.0], [5.0, 2.0]])
    # means (1, 0) and (5, 1): 17 apart squared; traces 2 and 2; (17 - 1 - 1) / 2
    assert centroid_distance(a, b) == pytest.approx(np.sqrt(7.5))
    rng = np.random.default_rng(0)
    found = [centroid_distance(rng.normal(size=(8, 5)) + 1, rng.normal(size=(12, 5))) ** 2 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.15)  # 5 / 5, although each mean is far from exact
    assert centroid_distance(a, a) == 0
    assert centroid_distance(a[:1], b) is None
    assert centroid_distance(np.ones((3, 2)), np.ones((4, 2))) is None


@given(st.integers(0, 1000), st.floats(1e-4, 1e4), st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_scale_rotation_and_shift_change_nothing(seed, scale, shift):
    train, val = (cloud(each=12, shift=1.0, turn=0.5, seed=seed + i) for i in (0, 1))
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    moved = [
        Embedded(scale * (part.vectors @ rotation + shift), part.label, part.is_video, part.group) for part in (train, val)
    ]
    before, after = gap_between(train, val, seed=0), gap_between(*moved, seed=0)
    assert after == pytest.approx(before, abs=1e-6)


def test_the_probe_is_scikit_learns_and_holds_groups_together():
    samples = cloud(each=40, shift=1.5)
    halves = np.arange(160) // 2 % 2
    group = np.array(
        [f"{kind}{label}{half}" for kind, label, half in zip(samples.is_video, samples.label, halves, strict=True)]
    )
    # what tells the groups apart would tell the kinds apart, if a group were on both sides
    vectors = samples.vectors + 20 * np.random.default_rng(1).normal(size=(8, 6))[np.unique(group, return_inverse=True)[1]]
    grouped = Embedded(vectors, samples.label, samples.is_video, group)
    loose = Embedded(vectors, samples.label, samples.is_video, samples.group)
    assert probe_accuracy(loose, seed=0) > 0.9
    assert probe_accuracy(grouped, seed=0) < 0.9
    centre = samples.vectors.mean(0)
    x = (samples.vectors - centre) / np.sqrt(np.square(samples.vectors - centre).mean())
    known = np.mean(LogisticRegression().fit(x, samples.is_video).predict(x) == samples.is_video)
    assert probe_accuracy(samples, seed=0) == pytest.approx(known, abs=0.06)


def test_labels_in_other_shares_are_no_gap():
    """Videos are mostly fake here, images mostly real; nothing else tells them apart."""
    whole = cloud(each=300)
    rare = whole.label != whole.is_video
    kept = ~rare | (np.arange(len(rare)) % 10 < 2)
    uneven = Embedded(*(getattr(whole, name)[kept] for name in Embedded.__dataclass_fields__))
    plain = LogisticRegression().fit(uneven.vectors, uneven.is_video).score(uneven.vectors, uneven.is_video)
    assert plain > 0.75
    assert probe_accuracy(uneven, seed=0) == pytest.approx(0.5, abs=0.08)


def test_a_seed_decides():
    samples = cloud(each=15, shift=0.7)
    assert probe_accuracy(samples, seed=3) == probe_accuracy(samples, seed=3)
    assert len({probe_accuracy(samples, seed=seed) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("keep", "known"),
    [
        (lambda kind, label: kind, ()),  # no images
        (lambda kind, label: ~kind, ()),
        (lambda kind, label: label == 1, ("centroid_fake", "probe_accuracy")),
        (lambda kind, label: kind | (label == 0), ("centroid_real", "probe_accuracy")),  # no fake images
        (lambda kind, label: np.arange(len(kind)) < 0, ()),
        (lambda kind, label: np.arange(len(kind)) % 6 == 0, ("centroid_real",)),
    ],
)
def test_what_is_missing_is_null_and_never_a_crash(keep, known):
    whole = cloud(each=6)
    kept = keep(whole.is_video, whole.label)
    part = Embedded(*(getattr(whole, name)[kept] for name in Embedded.__dataclass_fields__))
    found = gap_between(part, part, seed=0)
    assert set(found) == set(MEASURES)
    one_sided = {name for name, value in found.items() if value is not None and not name.startswith("transfer")}
    assert one_sided >= set(known)
    assert all(value is None or np.isfinite(value) for value in found.values())


def test_identical_and_single_group_embeddings():
    whole = cloud(each=6)
    flat = Embedded(np.ones_like(whole.vectors), whole.label, whole.is_video, whole.group)
    found = gap_between(flat, flat, seed=0)
    assert found["centroid_real"] is None
    assert found["probe_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert found["transfer_image_to_video"] == 0.5
    one = Embedded(whole.vectors, whole.label, whole.is_video, np.full(24, "v"))
    assert gap_between(one, one, seed=0)["probe_accuracy"] is None


@pytest.fixture
def store(tmp_path, make_store, corpus):
    return make_store(tmp_path / "cache", corpus())


@pytest.mark.parametrize("adapter", adapter_names())
@pytest.mark.parametrize("clip_frames", [1, 8])
def test_embeddings_are_those_the_scores_rest_on(store, make_detector, adapter, clip_frames):
    detector, samples = make_detector(adapter), store.samples()
    with TokenLoader(store, maps=detector.adapter.needs_maps) as source:
        made = embed_samples(detector, source, samples, clip_frames=clip_frames, batch_frames=17)
        scored = score_samples(detector, source, samples, clip_frames=clip_frames)
    weight, bias = (p.detach().double().numpy() for p in detector.head.parameters())
    np.testing.assert_allclose(made.vectors @ weight[0] + bias, scored["logit"], atol=1e-4)
    assert made.is_video.tolist() == [kind != "image" for kind in samples["kind"]]
    assert made.group.tolist() == samples["video_id"].to_list()


def test_of_a_detector_on_a_store(store, make_detector):
    detector, samples = make_detector().train(), store.samples()
    with TokenLoader(store) as source:
        found = modality_gap(detector, source, samples, samples, clip_frames=8, seed=0)
        shuffled = samples.sample(fraction=1.0, shuffle=True, seed=1)
        again = modality_gap(detector, source, shuffled, shuffled, clip_frames=8, seed=0)
        videos = samples.filter(pl.col("kind") == "video")
        assert modality_gap(detector, source, samples, videos, clip_frames=8, seed=0) == dict.fromkeys(MEASURES)
        without = modality_gap(detector, source, samples.clear(), samples, clip_frames=8, seed=0)
    assert detector.training
    assert all(value is not None for value in found.values())
    assert again == pytest.approx(found, abs=1e-4)
    assert without["transfer_image_to_video"] is without["transfer_video_to_image"] is None
    assert without["probe_accuracy"] == found["probe_accuracy"]


def test_nan_is_refused_with_the_name_of_the_sample(store, make_detector):
    detector = make_detector("meanpool_mlp")
    for parameter in detector.adapter.parameters():
        parameter.data.fill_(float("nan"))
    samples = store.samples()
    with TokenLoader(store) as source, pytest.raises(RunError, match="embedding of made-00"):
        modality_gap(detector, source, samples, samples, clip_frames=8, seed=0)


def test_many_samples_are_drawn_by_seed_from_each_kind_and_label():
    rows = [(f"s{i:05d}", ("image", "video", "frames")[i % 3], i % 5 == 0) for i in range(3000)]
    samples = pl.DataFrame(rows, schema={"sample_id": pl.String, "kind": pl.String, "label": pl.Boolean}, orient="row").cast(
        {"label": pl.Int8}
    )
    kept = choose(samples, seed=0)
    counts = {row[:2]: row[2] for row in kept.group_by("kind", "label").len().rows()}
    assert counts == {("image", 0): 250, ("image", 1): 200, ("video", 0): 250, ("video", 1): 250}
    assert kept["sample_id"].is_sorted()
    assert choose(samples, seed=0).equals(kept)
    assert not choose(samples, seed=1).equals(kept)


@pytest.mark.usefixtures("unplotted")
def test_an_evaluation_tells_it_where_it_was_asked_for_and_can_be_told(tmp_path, make_store, corpus, make_detector):
    """Two stores are one test split: their embeddings are measured together, with heads trained on the train split of both."""
    detector, videos = make_detector("linear_probe"), [row for row in corpus("third") if row["kind"] == "video"]
    train = [
        row | {"sample_id": "t" + row["sample_id"], "video_id": "t" + row["video_id"]} for row in corpus("a", split="train")
    ]
    stores = [
        make_store(tmp_path / name, rows)
        for name, rows in {"a": corpus("a") + train, "b": corpus("b"), "third": videos}.items()
    ]

    def gap(*which, **options):
        how = {"layers": ("block_1", "block_3"), "clip_frames": 8, "title": "made", "resamples": 10}
        return evaluate_run(detector, [stores[i] for i in which], out_dir=tmp_path / "out", **how, **options)["gap"]

    assert gap(0) is None
    assert gap(2, gap=True) is None  # videos alone
    alone, together = gap(0, gap=True), gap(0, 1, gap=True)
    assert None not in alone.values()
    assert None not in together.values()
    assert gap(1, gap=True)["transfer_image_to_video"] is None  # nothing to train a head on
    with TokenLoader(stores[0], maps=False) as source:
        samples = stores[0].samples()
        parts = [samples.filter(pl.col("split") == split) for split in ("train", "test")]
        assert alone == pytest.approx(modality_gap(detector, source, *parts, clip_frames=8, seed=0))
