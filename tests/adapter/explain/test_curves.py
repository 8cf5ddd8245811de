"""Deletion, insertion and pointing on clips where the truth is known, and their summary."""

import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2st.adapter.explain.check_figure import check_png
from d2st.adapter.explain.curves import blurred, deletion_insertion, random_map
from d2st.adapter.explain.faithful import centre_map, check_clip, summarise
from d2st.adapter.explain.pointing import crop_masks, pointing

SIDE, PLACE = 16, (slice(None), slice(8, 12), slice(4, 8))  # of a clip's pixels: where the evidence is
WHITE, BLACK = (np.full((2, SIDE, SIDE, 3), value, np.uint8) for value in (255, 0))


def bright_place(clips: np.ndarray) -> np.ndarray:
    """A detector that goes by one place alone: logits (B,) from -6 (black there) to 6 (white)."""
    return (clips[:, *PLACE].mean((1, 2, 3, 4)) / 255 - 0.5) * 12


@pytest.fixture
def truth() -> np.ndarray:
    """The perfect map, (2,4,4)."""
    found = np.zeros((2, 4, 4), np.float32)
    found[:, 2, 1] = 1
    return found


def test_a_true_map_is_deleted_first_and_inserted_first(truth):
    own, wrong = deletion_insertion(WHITE, BLACK, [truth, -truth], bright_place, steps=8)
    for curves in (own, wrong):
        assert curves.deletion[0] == curves.insertion[-1] == pytest.approx(1 / (1 + np.exp(-6)))
        assert curves.deletion[-1] == curves.insertion[0] == pytest.approx(1 / (1 + np.exp(6)))
    assert own.deletion_area < 0.2 < 0.8 < wrong.deletion_area
    assert wrong.insertion_area < 0.2 < 0.8 < own.insertion_area
    assert own.deletion[2] < 0.01  # the place is a sixteenth of the clip, a quarter has been deleted


@given(st.integers(0, 1000))
def test_curves_of_any_map_stay_between_their_ends(seed):
    [curves] = deletion_insertion(WHITE, BLACK, [random_map((2, 4, 4), seed=seed)], bright_place, steps=4)
    assert (np.diff(curves.deletion) <= 1e-12).all()
    assert (np.diff(curves.insertion) >= -1e-12).all()


def test_maps_of_another_clip_length_are_refused(truth):
    with pytest.raises(ValueError, match="do not belong together"):
        deletion_insertion(WHITE, BLACK, [truth[:1]], bright_place)


def test_blur_keeps_the_brightness_and_takes_the_detail():
    noise = np.random.default_rng(0).integers(0, 256, WHITE.shape, np.uint8)
    soft = blurred(noise)
    assert abs(soft.mean() - noise.mean()) < 3
    assert soft.std() < noise.std() / 2


def test_random_maps_point_everywhere_alike():
    peaks = np.array([np.unravel_index(random_map((1, 8, 8), seed=seed).argmax(), (8, 8)) for seed in range(800)])
    at_edge = ((peaks == 0) | (peaks == 7)).any(axis=1).mean()
    assert at_edge == pytest.approx(28 / 64, abs=0.1)


def test_pointing_counts_the_highest_point_and_the_energy_inside(truth):
    masks = np.zeros((2, SIDE, SIDE), np.float32)
    masks[PLACE] = 1
    found = pointing(truth, masks)
    assert found.hit
    assert found.area == pytest.approx(1 / 16)
    assert found.chance == pytest.approx(1 / 16)  # 3 % of 16 px are less than one
    assert 0.3 < found.energy < 1  # bilinear: a part of the peak lies around the cell
    assert not pointing(-truth, masks).hit
    assert pointing(np.zeros_like(truth), masks).energy == 0
    # the tolerance: 3 px of a crop of 100
    near, corner = np.zeros((1, 100, 100), np.float32), np.zeros((1, 100, 100), np.float32)
    near[0, 50, 53], corner[0, 40:61, 40:51] = 1, 1
    assert pointing(near, corner).hit
    assert not pointing(np.roll(near, 1, axis=2), corner).hit


def test_masks_follow_their_crops():
    """A mask of quarter size, through shift and scale, covers what the full-size mask covers."""
    mask = np.zeros((1, 16, 16), np.float32)
    mask[0, 4:8, 8:12] = 1  # rows 16 to 31, columns 32 to 47 of a frame of 64 px
    matrix = np.array([[[2.0, 0.0, -2 * 24 + 0.5], [0.0, 2.0, -2 * 8 + 0.5]]])  # crop of 64 px from (24, 8), twice as large
    [found] = crop_masks(mask, matrix, frame_side=64, side=64)
    rows, columns = np.flatnonzero(found.max(1) > 0.5), np.flatnonzero(found.max(0) > 0.5)
    assert (rows.min(), rows.max() + 1) == (16, 48)
    assert (columns.min(), columns.max() + 1) == (16, 48)


@pytest.fixture
def summary(truth):
    masks = np.zeros((2, SIDE, SIDE), np.float32)
    masks[PLACE] = 1
    maps = {
        "relevance": truth,
        "centre": centre_map(truth.shape),
        "attention": truth * 0 + 1,
        "another clip's": random_map(truth.shape, seed=9),
    }
    rows = []
    for number in range(6):
        about = {"sample_id": f"{number}", "video_id": f"v{number}", "kind": "video", "method": "swap" if number else "smooth"}
        rows += [about | row for row in check_clip(WHITE, BLACK, masks, maps, bright_place, seed=0)]
    return summarise(pl.DataFrame(rows))


def test_gains_are_paired_and_better_means_better(summary):
    assert list(summary) == ["all", "videos", "videos: smooth", "videos: swap"]
    own = summary["all"]["maps"]["relevance"]
    assert summary["all"]["clips"] == 6
    assert own["hit"]["value"] == 1
    for measure in ("deletion", "insertion", "energy"):
        low, high = own[measure]["interval"]
        assert low == pytest.approx(high)  # six equal clips
        assert own[measure]["gain"] == pytest.approx(low)
        assert low > 0.05
    assert summary["all"]["maps"]["random"]["deletion"]["gain"] == 0
    assert np.isnan(summary["videos: smooth"]["maps"]["relevance"]["hit"]["interval"]).all()  # one clip says nothing of others


def test_the_summary_is_drawn(summary):
    assert Image.open(io.BytesIO(check_png(summary, title="demo", base="black"))).size[0] > 1000
