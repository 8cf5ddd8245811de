"""Each perturbation on crops: shape, repeatability, and the further down the scale the worse; a new entry is tested by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache.errors import UnknownNameError, UsageError
from d2st.pipeline.perturb import ALL, SEVERITIES, parse_perturbations, perturbation_names
from d2st.pipeline.perturb.pictures import blur, noise, resize
from d2st.pipeline.perturb.video import h264

EVERY = parse_perturbations(ALL)
each = pytest.mark.parametrize("perturbation", EVERY, ids=lambda perturbation: perturbation.name)


def faces(frames=4, side=64, *, seed=0):
    """Smooth shades that move, an edge and some grain: (T,S,S,3) uint8."""
    y, x = np.mgrid[:side, :side] / side
    shift = np.arange(frames)[:, None, None] / 40
    shades = [np.sin(5 * x + 3 * y + shift), np.cos(4 * x * y + shift), np.where(x + shift > 0.5, 0.6, -0.4)]
    grain = np.random.default_rng(seed).normal(0, 6, (frames, side, side, 3))
    return np.clip(128 + 80 * np.stack(np.broadcast_arrays(*shades), axis=-1) + grain, 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@each
def test_each_severity_is_worse_than_the_one_before(perturbation):
    crops = faces(12, 112)
    found = [psnr(perturbation.apply(crops, "id", severity=severity), crops) for severity in SEVERITIES]
    assert np.all(np.diff(found) < 0), found
    assert 8 < found[-1] < found[0] < 45, found


@each
@pytest.mark.parametrize(("frames", "side"), [(1, 64), (3, 33), (1, 17), (25, 16)])
def test_shape_and_dtype_stay_for_odd_sizes_and_one_frame(perturbation, frames, side):
    crops = faces(frames, side)
    before = crops.copy()
    for severity in (1, 5):
        made = perturbation.apply(crops, "id", severity=severity)
        assert (made.shape, made.dtype) == (crops.shape, np.uint8)
        assert np.abs(made.mean(axis=(1, 2)) - crops.mean(axis=(1, 2))).max() < 12  # frames in order, colours where they were
    np.testing.assert_array_equal(crops, before)


@each
def test_the_same_again(perturbation):
    crops = faces(3, 48)
    first, second = (perturbation.apply(crops.copy(), "id", severity=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each
def test_five_severities_a_parameter_and_a_source(perturbation):
    assert len(perturbation.values) == len(SEVERITIES) == 5
    assert len(set(perturbation.values)) == 5
    assert perturbation.parameter
    assert perturbation.source


def test_noise_is_the_samples_own_and_does_not_depend_on_the_frames_behind():
    crops = np.full((3, 40, 40, 3), 128, np.uint8)
    made = noise(crops, 18.0, sample="a")
    np.testing.assert_array_equal(noise(crops[:1], 18.0, sample="a"), made[:1])
    assert not np.array_equal(noise(crops, 18.0, sample="b"), made)
    assert not np.array_equal(made[0], made[1])
    assert made.std() == pytest.approx(18.0, rel=0.05)


def test_noise_stops_at_black_and_white():
    made = noise(np.array([0, 255], np.uint8).repeat(3 * 32 * 32).reshape(2, 32, 32, 3), 57.0, sample="a")
    assert made[0].max() < 255  # nothing wrapped around
    assert made[1].min() > 0


def test_blur_hides_the_same_of_a_face_at_any_size():
    def edge(side):
        return np.broadcast_to(np.where(np.arange(side) < side // 2, 0, 255), (1, side, side))[..., None].repeat(3, axis=3)

    small, large = (blur(edge(side).astype(np.uint8), 0.03)[0, side // 2, :, 0] for side in (96, 192))
    np.testing.assert_allclose(large.reshape(96, 2).mean(axis=1), small, atol=8)


def test_resize_leaves_what_is_larger_than_its_factor():
    board = (np.indices((64, 64)).sum(axis=0)[None, ..., None] % 2 * 255).astype(np.uint8).repeat(3, axis=3)
    assert np.abs(resize(board, 2.0) - 127.5).max() < 1  # squares of 1 px are gone
    halves = board.copy()
    halves[:, :, :32], halves[:, :, 32:] = 0, 255
    assert np.abs(resize(halves, 4.0).astype(int) - halves)[:, :, [0, 20, 44, 63]].max() == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(16, 40), st.integers(0, 51))
def test_h264_gives_every_frame_back(frames, side, crf):
    crops = faces(frames, side)
    made = h264(crops, crf)
    assert (made.shape, made.dtype) == (crops.shape, np.uint8)


def test_h264_keeps_what_is_even_and_sees_neighbours():
    still = np.repeat(faces(1, 64), 8, axis=0)
    made = h264(still, 30)
    assert psnr(made, still) > psnr(h264(still[:1], 40), still[:1])
    assert psnr(h264(faces(2, 64), 0), faces(2, 64)) > 32  # chroma alone is lost
    moving = faces(8, 64)
    assert not np.array_equal(h264(moving, 35)[4], h264(moving[4:5], 35)[0])


def test_names():
    assert perturbation_names() == ["blur", "h264", "jpeg", "noise", "resize"]
    assert [found.name for found in parse_perturbations(" noise, jpeg,noise,")] == ["noise", "jpeg"]
    with pytest.raises(UnknownNameError, match=r"no perturbation named 'webp'.*Known: all, blur, h264, jpeg, noise, resize"):
        parse_perturbations("jpeg,webp")
    with pytest.raises(UsageError, match="names nothing"):
        parse_perturbations(" , ")
