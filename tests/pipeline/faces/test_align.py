import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.pipeline.faces.align import box_corners, crop_corners, fit_similarity, template_points


def test_template_is_deepfakebenchs_at_margin_1_3():
    published = [[0.3784, 0.4704], [0.6204, 0.4691], [0.5002, 0.6081], [0.4008, 0.7498], [0.6012, 0.7487]]
    np.testing.assert_allclose(template_points(256) / 256, published, atol=6e-5)


def test_template_without_margin_is_arcfaces():
    np.testing.assert_allclose(template_points(112, 1.0)[0], [38.2946, 51.6963])


@given(
    scale=st.floats(0.05, 20),
    turn=st.floats(-np.pi, np.pi),
    x=st.floats(-2000, 2000),
    y=st.floats(-2000, 2000),
)
def test_any_similarity_is_recovered(scale, turn, x, y):
    a, b = scale * np.cos(turn), scale * np.sin(turn)
    truth = np.array([[a, -b, x], [b, a, y]])
    points = template_points(100)
    found = fit_similarity(points, points @ truth[:, :2].T + truth[:, 2])
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-6)


def test_noisy_points_get_the_least_squares_fit_and_no_mirroring():
    rng = np.random.default_rng(3)
    points, targets = rng.normal(size=(5, 2)) * 50, rng.normal(size=(5, 2)) * 50
    x, y = points.T
    columns = np.block(
        [
            [x[:, None], -y[:, None], np.ones((5, 1)), np.zeros((5, 1))],
            [y[:, None], x[:, None], np.zeros((5, 1)), np.ones((5, 1))],
        ]
    )
    a, b, tx, ty = np.linalg.lstsq(columns, targets.T.ravel(), rcond=None)[0]
    found = fit_similarity(points, targets)
    np.testing.assert_allclose(found, [[a, -b, tx], [b, a, ty]], atol=1e-9)
    assert np.linalg.det(found[:, :2]) > 0


def test_points_on_one_spot_are_refused():
    with pytest.raises(ValueError, match="one spot"):
        fit_similarity(np.ones((5, 2)), template_points(100))


def test_box_crop_is_a_larger_square_that_sits_higher():
    corners = box_corners(np.array([[100, 100, 180, 200]], np.float32))[0]
    np.testing.assert_allclose(corners[2] - corners[0], [134, 134])
    np.testing.assert_allclose(corners.mean(axis=0), [140, 150 - 0.07 * 134])
    assert np.linalg.norm(fit_similarity(corners, crop_corners(134))[:, :2] - np.eye(2)) < 1e-12
