"""Scores of cached samples: the right rows, the same whatever the batches, in the order asked for."""

import numpy as np
import polars as pl
import pytest
import torch

from d2st.adapter.evaluate.score import PREDICTIONS, score_samples
from d2st.adapter.nets import adapter_names
from d2st.adapter.rows import clip_rows, pad_rows
from d2st.cache import Request, TokenLoader
from d2st.cache.errors import RunError


@pytest.fixture
def store(tmp_path, make_store, corpus):
    return make_store(tmp_path / "cache", corpus())


def score(detector, store, *, samples=None, **options):
    samples = store.samples() if samples is None else samples
    return score_samples(detector, TokenLoader(store, maps=detector.adapter.needs_maps), samples, **options)


@pytest.mark.parametrize("adapter", adapter_names())
@pytest.mark.parametrize("clip_frames", [1, 8])
def test_every_adapter_gives_the_columns_of_a_prediction(store, make_detector, adapter, clip_frames):
    table = score(make_detector(adapter), store, clip_frames=clip_frames)
    assert table.schema == PREDICTIONS
    assert table["sample_id"].to_list() == store.samples()["sample_id"].to_list()
    np.testing.assert_allclose(table["score"], 1 / (1 + np.exp(-table["logit"].to_numpy())))
    assert (table["frames"] == table["frame_scores"].list.len()).all()
    assert table.filter(pl.col("frame_scores").list.eval((pl.element() <= 0) | (pl.element() >= 1)).list.any()).is_empty()


@pytest.mark.parametrize("clip_frames", [1, 8])
def test_batches_and_order_do_not_change_a_score(store, make_detector, clip_frames):
    detector = make_detector()
    whole = score(detector, store, clip_frames=clip_frames)
    for batch_frames in (7, 24):
        again = score(detector, store, clip_frames=clip_frames, batch_frames=batch_frames)
        np.testing.assert_allclose(again["logit"], whole["logit"], atol=1e-5)
    shuffled = store.samples().sample(fraction=1.0, shuffle=True, seed=1)
    again = score(detector, store, samples=shuffled, clip_frames=clip_frames)
    assert again["sample_id"].to_list() == shuffled["sample_id"].to_list()
    np.testing.assert_allclose(again.sort("sample_id")["logit"], whole["logit"], atol=1e-5)


def test_a_sample_scores_as_it_does_by_hand(store, make_detector):
    """One sample at a time, rows picked here, no padding: what the batched way must agree with."""
    detector = make_detector()
    table = score(detector, store, clip_frames=8)
    for sample, predicted in zip(store.samples().iter_rows(named=True), table.iter_rows(named=True), strict=True):
        rows = np.array([clip_rows(sample["start"], sample["frames_cached"], 8)])
        batch = next(TokenLoader(store).stream([Request(rows)]))
        with torch.inference_mode():
            output = detector(batch.tokens, batch.cls, batch.mask)
        assert predicted["logit"] == pytest.approx(output.clip_logit.item(), abs=1e-5)
        assert predicted["frames"] == rows.size
        np.testing.assert_allclose(predicted["frame_scores"], torch.sigmoid(output.frame_logits[0]).numpy(), atol=1e-5)


def test_single_frame_detector_averages_the_logits_of_every_cached_frame(store, make_detector):
    table = score(make_detector("linear_probe"), store, clip_frames=1)
    assert table["frames"].to_list() == store.samples()["frames_cached"].to_list()
    for row in table.iter_rows(named=True):
        frames = np.array(row["frame_scores"])
        assert row["logit"] == pytest.approx(np.log(frames / (1 - frames)).mean(), abs=1e-9)


def test_sees_the_difference_between_real_and_fake(store, make_detector):
    table = score(make_detector("linear_probe"), store, clip_frames=12)
    means = dict(table.group_by("label").agg(pl.col("logit").mean()).iter_rows())
    assert means[1] > means[0] + 1


def test_the_detector_keeps_its_mode_and_no_sample_is_no_error(store, make_detector):
    detector = make_detector("linear_probe").train()
    assert len(score(detector, store, clip_frames=4)) == 24
    assert detector.training
    empty = score(detector, store, samples=store.samples().clear(), clip_frames=4)
    assert empty.schema == PREDICTIONS
    assert empty.is_empty()


def test_nan_is_refused_with_the_name_of_the_sample(store, make_detector):
    detector = make_detector("linear_probe")
    with torch.no_grad():
        detector.head.linear.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"NaN or infinity for 24 of 24 samples, among them made-00"):
        score(detector, store, clip_frames=4)


def test_progress_reaches_its_end(store, make_detector):
    seen = []
    score(
        make_detector("linear_probe"),
        store,
        clip_frames=4,
        batch_frames=8,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (24, 24)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("cached", "clip", "expected"), [(3, 4, [5, 6, 7]), (4, 4, [5, 6, 7, 8]), (32, 4, [9, 17, 25, 33]), (3, 1, [6])]
)
def test_rows_of_a_clip_lie_at_the_centres_of_equal_parts(cached, clip, expected):
    assert clip_rows(5, cached, clip) == expected


def test_rows_are_padded_at_the_end_and_nothing_is_asked_of_no_frames():
    assert pad_rows([[1, 2, 3], [7]], 3).tolist() == [[1, 2, 3], [7, -1, -1]]
    with pytest.raises(ValueError, match="at least 1"):
        clip_rows(0, 0, 4)
