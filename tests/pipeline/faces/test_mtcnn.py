import cv2
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

from d2st.pipeline.faces import build_detector, crop_faces
from d2st.pipeline.faces.align import template_points
from d2st.pipeline.faces.boxes import iou
from d2st.pipeline.faces.pyramid import lay_pyramid

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
FACE = [174, 109, 357, 341]  # where she is in the picture
POINTS = [[223, 190], [306, 187], [268, 240], [230, 279], [305, 276]]  # by eye


@pytest.fixture(scope="module")
def hopper():
    with get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="module", params=DEVICES)
def detector(request):
    return build_detector("mtcnn", weights=None, device=request.param)


def warped(image, matrix, size):
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "scores", "landmarks"))


def test_the_face_is_found_with_its_landmarks(detector, hopper):
    (found,) = detector.detect([hopper])
    assert len(found) == 1
    assert found.scores[0] > 0.99
    assert iou(found.boxes, np.array([FACE], np.float32))[0, 0] > 0.9
    np.testing.assert_allclose(found.landmarks[0], POINTS, atol=5)
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32


@pytest.mark.parametrize("degrees", [-15, 15])
def test_a_turned_head_is_found_and_its_crop_is_upright(detector, hopper, degrees):
    matrix = cv2.getRotationMatrix2D((265, 225), degrees, 1)
    image = warped(hopper, matrix, (512, 600))
    (found,) = detector.detect([image])
    assert len(found) == 1
    expected = np.array(POINTS) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(found.landmarks[0], expected, atol=8)
    (again,) = detector.detect([crop_faces([image], [0.0], [found], size=224).images[0]])
    assert np.abs(again.landmarks[0] - template_points(224)).max() < 12


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.5])
def test_found_at_many_sizes(detector, hopper, scale):
    image = cv2.resize(hopper, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    (found,) = detector.detect([image])
    assert len(found) == 1
    np.testing.assert_allclose(found.landmarks[0] / scale, POINTS, atol=7)


@pytest.mark.parametrize(("gain", "offset"), [(0.35, 0), (0.6, 100), (1.4, 10)])
def test_found_in_dark_pale_and_bright_pictures(detector, hopper, gain, offset):
    image = np.clip(hopper * gain + offset, 0, 255).astype(np.uint8)
    assert len(detector.detect([image])[0]) == 1


def test_found_without_colour_and_when_it_fills_the_frame(detector, hopper):
    grey = np.repeat(cv2.cvtColor(hopper, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    close = np.ascontiguousarray(hopper[70:360, 130:400])
    assert [len(found) for found in detector.detect([grey, close])] == [1, 1]


def test_two_faces_are_two(detector, hopper):
    (found,) = detector.detect([np.concatenate([hopper, hopper[:, ::-1]], axis=1)])
    assert len(found) == 2
    mirrored = found.landmarks[np.argmax(found.boxes[:, 0])]
    assert mirrored[0, 0] < mirrored[1, 0]  # left is left in the picture
    assert mirrored[3, 0] < mirrored[4, 0]


def test_nothing_in_noise_flat_and_tiny_pictures(detector):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(4)]
    flat = [
        np.full((h, w, 3), v, np.uint8) for h, w, v in [(200, 300, 0), (90, 90, 128), (41, 700, 255), (20, 20, 99), (1, 1, 0)]
    ]
    assert [len(found) for found in detector.detect([*noise, *flat])] == [0] * 9
    assert detector.detect([]) == []


def test_what_is_found_does_not_depend_on_the_neighbours(detector, hopper):
    shifted = [np.ascontiguousarray(hopper[k:, 2 * k :][:450, :440]) for k in range(4)]
    twins = np.concatenate([hopper, hopper[:, ::-1]], axis=1)
    images = [*shifted, hopper, twins, np.zeros((300, 300, 3), np.uint8)]
    together, backwards = detector.detect(images), detector.detect(images[::-1])[::-1]
    for image, a, b in zip(images, together, backwards, strict=True):
        assert same(a, b)
        assert same(a, detector.detect([image])[0])


def test_landmarks_are_steady_when_the_picture_moves(detector, hopper):
    shifts = np.random.default_rng(0).uniform(-8, 8, (10, 2))
    moved = [warped(hopper, np.array([[1, 0, x], [0, 1, y]]), (512, 600)) for x, y in shifts]
    points = np.stack([f.landmarks[0] - s for f, s in zip(detector.detect(moved), shifts, strict=True)])
    shake = np.sqrt(points.var(axis=0).sum(axis=-1).mean()) / np.linalg.norm(np.subtract(POINTS[1], POINTS[0]))
    assert shake < 0.015  # of the distance between the eyes; a single look gives 0.020


@pytest.mark.parametrize(("height", "width"), [(256, 256), (360, 640), (640, 360), (41, 640), (97, 101)])
def test_pyramid_levels_do_not_overlap_and_windows_stay_within_one(height, width):
    pyramid = lay_pyramid(height, width, 40)
    taken = np.zeros((pyramid.height, pyramid.width), int)
    for y, x, h, w in pyramid.levels:
        taken[y : y + h, x : x + w] += 1
        assert y % 2 == x % 2 == 0
    assert taken.max() == 1
    assert taken.sum() == (pyramid.levels[:, 2] * pyramid.levels[:, 3]).sum()
    for row, column in np.argwhere(pyramid.cells >= 0):
        y, x, h, w = pyramid.levels[pyramid.cells[row, column]]
        assert y <= 2 * row <= y + h - 12
        assert x <= 2 * column <= x + w - 12
    assert lay_pyramid(39, 500, 40) is None
