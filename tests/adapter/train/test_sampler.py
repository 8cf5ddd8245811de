"""Order, balance and clips: pure functions of the seed, fair, and never outside of a sample's own rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.rows import clip_rows, clip_table, pad_rows
from d2st.adapter.train.clips import clip_batch, frame_batch
from d2st.adapter.train.recipe import Augment
from d2st.adapter.train.sampler import draw, epoch_requests, epoch_steps
from d2st.adapter.train.select import Rows

AUGMENT = Augment(frame_drop=0.3, reverse=0.5, jitter=0.7)


def rows_of(labels, is_video, frames=6):
    count = len(labels)
    is_video = np.asarray(is_video, dtype=bool)
    lengths = np.where(is_video, frames, 1)
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return Rows(tuple(f"s{i}" for i in range(count)), start, lengths, np.asarray(labels, dtype=np.int64), is_video)


def unbalanced(real=40, fake=8):
    labels = [0] * real + [1] * fake + [1] * real + [0] * fake
    return rows_of(labels, [False] * (real + fake) + [True] * (real + fake))


@given(data=st.data(), clip_frames=st.integers(1, 14))
@settings(max_examples=50, deadline=None)
def test_many_clips_at_once_are_the_clips_one_by_one(data, clip_frames):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 40)), min_size=1, max_size=5))
    start, frames = np.array(pairs).T
    one_by_one = pad_rows([clip_rows(*pair, clip_frames) for pair in pairs], clip_frames)
    assert np.array_equal(clip_table(start, frames, clip_frames), one_by_one)


@given(seed=st.integers(0, 5), reals=st.integers(1, 30), fakes=st.integers(1, 30), draws=st.integers(2, 90))
@settings(max_examples=50, deadline=None)
def test_labels_are_drawn_equally_often_and_samples_evenly(seed, reals, fakes, draws):
    rows = rows_of([0] * reals + [1] * fakes, [True] * (reals + fakes))
    order = draw(rows, np.arange(reals + fakes), draws, balance="label", rng=np.random.default_rng(seed))
    assert len(order) == draws
    assert abs(int((rows.label[order] == 1).sum()) - draws / 2) <= 0.5
    for label in (0, 1):
        among = np.flatnonzero(rows.label == label)
        shown = np.bincount(order, minlength=len(rows.ids))[among]
        assert shown.max() - shown.min() <= 1


def test_kinds_keep_their_shares_and_do_not_betray_the_label():
    rows = unbalanced()
    order = draw(rows, np.arange(96), 96, balance="label", rng=np.random.default_rng(0))
    for video in (False, True):
        assert (rows.is_video[order] == video).sum() == 48
        assert rows.label[order][rows.is_video[order] == video].mean() == 0.5
    plain = draw(rows, np.arange(96), 96, balance="none", rng=np.random.default_rng(0))
    assert sorted(plain) == list(range(96))


def test_a_kind_with_one_label_is_made_up_for():
    rows = rows_of([1] * 10 + [0] * 5 + [1] * 5, [False] * 10 + [True] * 10)
    order = draw(rows, np.arange(20), 40, balance="label", rng=np.random.default_rng(0))
    assert rows.label[order].mean() == 0.5


def test_an_epoch_draws_by_inverse_frequency():
    """What sampling by weights 1 / N_y, as the DFD model card does, gives in the mean: each sample of label y N / (2 N_y) times."""
    rows = rows_of([0] * 12 + [1] * 84, [True] * 96)
    shown = sum(
        np.bincount(draw(rows, np.arange(96), 96, balance="label", rng=np.random.default_rng(e)), minlength=96)
        for e in range(40)
    )
    expected = np.where(rows.label == 0, 96 / (2 * 12), 96 / (2 * 84))
    assert (shown[:12] == 40 * expected[:12]).all()  # four times each, in every epoch
    assert shown[12:].sum() == 40 * 48
    assert abs(shown[12:] / 40 - expected[12:]).max() < 0.3


def steps_of(rows, stage, epoch, seed=0, accumulate=1):
    return epoch_steps(rows, stage=stage, batch_size=7, accumulate=accumulate, balance="label", seed=seed, epoch=epoch)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_epoch_is_a_function_of_seed_and_epoch_and_can_start_anywhere(stage):
    rows = unbalanced()

    def requests(epoch, seed=0, first=0):
        steps = steps_of(rows, stage, epoch, seed)
        made = epoch_requests(
            rows, steps, stage=stage, clip_frames=4, augment=AUGMENT, seed=seed, epoch=epoch, first_step=first
        )
        return [(request.rows.tolist(), request.tag.tolist()) for request in made]

    assert requests(0) == requests(0)
    assert requests(0) != requests(1)
    assert requests(0) != requests(0, seed=1)
    batches = 2 if stage == 3 else 1
    assert requests(0, first=3) == requests(0)[3 * batches :]


def test_batches_are_even_and_equally_many_in_every_epoch():
    rows = unbalanced()
    for accumulate in (1, 2, 3):
        passes = [[len(p[0]) for step in steps_of(rows, 1, epoch, accumulate=accumulate) for p in step] for epoch in range(4)]
        assert {len(part) for part in passes} == {-(-96 // 7)}
        assert max(passes[0]) - min(passes[0]) <= 1
        assert sum(passes[0]) == 96
    # a step's mean is what the optimiser sees: no last step of few batches
    assert [len(step) for step in steps_of(rows, 1, 0, accumulate=4)] == [4, 4, 3, 3]
    assert [len(step) for step in steps_of(rows, 1, 0, accumulate=13)] == [7, 7]


def test_stage_three_pairs_images_with_as_many_clips():
    rows = unbalanced()
    for step in steps_of(rows, 3, 0):
        ((images, videos),) = step
        assert len(images) == len(videos)
        assert not rows.is_video[images].any()
        assert rows.is_video[videos].all()


def test_a_video_gives_other_frames_in_other_epochs():
    rows = rows_of([0, 1] * 5, [True] * 10)
    seen = set()
    for epoch in range(12):
        for request in epoch_requests(
            rows, steps_of(rows, 1, epoch), stage=1, clip_frames=1, augment=Augment(), seed=0, epoch=epoch
        ):
            assert request.rows.shape == (len(request.tag), 1)
            seen |= set((request.rows[:, 0] - rows.start[request.tag]).tolist())
    assert seen == set(range(6))


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    clip=st.integers(1, 9),
    jitter=st.sampled_from([0.0, 0.5, 1.0]),
    reverse=st.sampled_from([0.0, 0.5, 1.0]),
    drop=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_clips_stay_inside_their_sample_in_order_and_padded_behind(lengths, clip, jitter, reverse, drop, seed):
    frames = np.array(lengths)
    start = np.concatenate([[0], np.cumsum(frames)[:-1]]) + 100
    made = clip_batch(start, frames, clip, rng=np.random.default_rng(seed), jitter=jitter, reverse=reverse, frame_drop=drop)
    assert made.dtype == np.int64
    assert made.shape[1] <= clip
    assert made.shape[1] >= (clip + 1) // 2
    for row, first, count in zip(made, start, frames, strict=True):
        kept = row[row != -1]
        assert (row[len(kept) :] == -1).all()
        assert len(kept) == min(count, made.shape[1])
        assert ((kept >= first) & (kept < first + count)).all()
        steps = np.diff(kept)
        assert (steps > 0).all() or (steps < 0).all()
        if reverse == 0.0:
            assert (steps > 0).all()


def test_single_frames_are_inside_their_sample():
    start, frames = np.array([0, 5, 6]), np.array([5, 1, 9])
    for seed in range(20):
        drawn = frame_batch(start, frames, rng=np.random.default_rng(seed))[:, 0]
        assert ((drawn >= start) & (drawn < start + frames)).all()
