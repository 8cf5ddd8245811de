import json

import cv2
import numpy as np
import pytest

from d2st.cache.errors import ConfigError, MediaError
from d2st.pipeline.faces import build_detector, crop_all_faces, crop_faces
from d2st.pipeline.faces.align import template_points
from d2st.pipeline.faces.detections import make_detections


def scene(height=360, width=640, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def landmarks_at(x, y, side):
    """Five points of an upright face whose crop is the square of this side with its corner at (x, y)."""
    return template_points(1) * side + [x, y]


def at(x, y, side, *, score=0.99, landmarks=True):
    box = [[x + 0.15 * side, y + 0.2 * side, x + 0.85 * side, y + 0.95 * side]]
    return make_detections(box, [score], [landmarks_at(x, y, side)] if landmarks else ())


def test_an_aligned_face_is_cut_out_pixel_by_pixel():
    image = scene()
    crops = crop_faces([image], [0.0], [at(200, 80, 128)], size=128)
    np.testing.assert_array_equal(crops.images[0], image[80:208, 200:328])
    assert crops.kept == (0,)
    assert crops.report["upscale"] == 1.0
    assert crops.report["outside"] == 0.0


def test_landmarks_land_on_the_template_whatever_the_pose():
    canvas, turn = np.zeros((400, 400, 3), np.uint8), np.deg2rad(25)
    matrix = 150 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (template_points(1) - 0.5) @ matrix.T + [190, 210]
    for x, y in points:
        cv2.circle(canvas, (round(x * 16), round(y * 16)), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    crop = crop_faces([canvas], [0.0], [make_detections([[110, 130, 270, 290]], [1.0], [points])], size=224).images[0, :, :, 0]
    _, _, _, centres = cv2.connectedComponentsWithStats((crop > 127).astype(np.uint8))
    expected = template_points(224)
    for centre in centres[1:]:
        assert np.linalg.norm(expected - centre, axis=1).min() < 0.6


def test_a_large_face_is_averaged_down_and_not_sampled():
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the crop can show: the only honest answer is grey
    crop = crop_faces([stripes], [0.0], [at(80, 80, 640)], size=112).images[0]
    assert np.abs(crop.astype(int) - 127).max() <= 8  # sampling pixels would give 0 and 255


def test_clip_and_frame_alignment_agree_on_one_frame():
    image, face = scene(), [at(211.3, 71.8, 137.7)]
    a, b = (crop_faces([image], [0.0], face, size=96, align=align) for align in ("clip", "frame"))
    np.testing.assert_array_equal(a.images, b.images)


def test_a_clip_of_a_still_scene_does_not_shake_however_noisy_the_landmarks():
    image, rng = scene(), np.random.default_rng(1)
    noisy = [at(200 + dx, 80 + dy, 128) for dx, dy in rng.normal(0, 2, (8, 2))]
    times = [k / 25 for k in range(8)]
    clip = crop_faces([image] * 8, times, noisy, size=112, align="clip").images
    assert (clip == clip[0]).all()
    frame = crop_faces([image] * 8, times, noisy, size=112, align="frame").images
    assert not (frame == frame[0]).all()


def test_a_pan_moves_the_crop_by_exactly_the_pan():
    wide, step = scene(width=800), 4
    panned = [wide[:, k * step : k * step + 640] for k in range(5)]
    faces = [at(300 - k * step, 80, 128) for k in range(5)]
    crops = crop_faces(panned, [k / 25 for k in range(5)], faces, size=128, align="clip").images
    for k in range(1, 5):  # one transform for all: the scene moves through the crop as it does through the frame
        np.testing.assert_array_equal(crops[0][:, k * step :], crops[k][:, : 128 - k * step])


def test_movement_in_a_clip_does_not_shrink_the_face():
    images = [scene()] * 5
    faces = [at(100 + 40 * k, 80, 128) for k in range(5)]
    assert crop_faces(images, [k / 25 for k in range(5)], faces, size=128).report["upscale"] == 1.0


def test_boxes_alone_give_an_upright_square_and_one_of_them_decides_for_all():
    images = [scene()] * 2
    whole = crop_faces(images[:1], [0.0], [at(200, 80, 128, landmarks=False)], size=64)
    assert whole.report["aligned_by"] == "box"
    mixed = crop_faces(images, [0.0, 0.04], [at(200, 80, 128), at(200, 80, 128, landmarks=False)], size=64, align="frame")
    assert mixed.report["aligned_by"] == "box"
    np.testing.assert_array_equal(mixed.images[0], mixed.images[1])
    np.testing.assert_array_equal(mixed.images[0], whole.images[0])


def test_frames_without_the_face_are_dropped_and_counted():
    nothing = make_detections()
    found = [nothing, at(200, 80, 128), nothing, at(200, 80, 128), nothing, nothing]
    crops = crop_faces([scene()] * 6, [float(k) for k in range(6)], found, size=32)
    assert crops.kept == (1, 2, 3)
    assert crops.images.shape == (3, 32, 32, 3)
    assert {k: crops.report[k] for k in ("frames", "kept", "interpolated", "coverage")} == {
        "frames": 6,
        "kept": 3,
        "interpolated": 1,
        "coverage": 0.5,
    }
    json.dumps(crops.report)


def test_no_face_and_a_lost_face_have_their_reasons():
    nothing = make_detections()
    with pytest.raises(MediaError) as caught:
        crop_faces([scene()] * 3, [0.0, 1.0, 2.0], [nothing] * 3, size=32)
    assert caught.value.reason == "no_face"
    with pytest.raises(MediaError) as caught:
        crop_faces([scene()], [0.0], [at(200, 80, 128, score=0.3)], size=32, min_score=0.5)
    assert caught.value.reason == "no_face"
    with pytest.raises(MediaError) as caught:
        crop_faces([scene()] * 4, [0.0, 1.0, 2.0, 3.0], [at(200, 80, 128), nothing, nothing, nothing], size=32)
    assert caught.value.reason == "face_lost"


def test_after_a_cut_to_another_shot_the_longer_one_wins():
    one, other = scene(seed=1), 255 - scene(seed=1) // 3
    crops = crop_faces([one] * 5 + [other] * 3, [k / 25 for k in range(8)], [at(200, 80, 128)] * 8, size=32)
    assert crops.kept == (0, 1, 2, 3, 4)
    assert crops.report["tracks"] == 2


def test_enlarged_faces_and_faces_cut_by_the_border_are_flagged():
    small = crop_faces([scene()], [0.0], [at(200, 80, 48)], size=112).report
    assert small["upscaled"]
    assert small["upscale"] == pytest.approx(112 / 48, abs=1e-3)
    cut = crop_faces([scene()], [0.0], [at(-64, 80, 128)], size=112)
    assert cut.report["outside"] == pytest.approx(0.5, abs=0.04)
    assert (cut.images[0, :, :50] == cut.images[0, :, :1]).all()  # the edge, repeated


def test_a_box_beyond_the_frame_is_no_face():
    with pytest.raises(MediaError) as caught:
        crop_faces([scene()], [0.0], [make_detections([[700, 0, 800, 100]], [1.0])], size=32)
    assert caught.value.reason == "no_face"


@pytest.mark.parametrize(
    "points", [np.full((5, 2), 260.0), landmarks_at(200, 80, 9), landmarks_at(200, 80, 128)[[1, 0, 2, 4, 3]]]
)
def test_landmarks_that_make_no_sense_give_way_to_the_box(points):
    face = make_detections([[220, 105, 310, 200]], [1.0], [points])
    assert crop_faces([scene()], [0.0], [face], size=64).report["aligned_by"] == "box"


def test_ready_made_crops_are_only_resized():
    image = scene(200, 200)
    found = build_detector("none", weights=None, device="cpu").detect([image, image[:, :150]])
    crops = crop_faces([image, image[:, :150]], [0.0, 1.0], found, size=100)
    np.testing.assert_array_equal(crops.images[0], cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA))
    assert crops.kept == (0, 1)
    assert crops.report["aligned_by"] == "none"


def test_ready_made_crops_keep_their_proportions():
    tall = np.zeros((200, 100, 3), np.uint8)
    cv2.circle(tall, (50, 100), 40, (255, 255, 255), -1)
    crop = crop_faces([tall], [0.0], build_detector("none").detect([tall]), size=100).images[0, :, :, 0] > 127
    assert abs(int(crop.any(axis=0).sum()) - int(crop.any(axis=1).sum())) <= 1


def test_misuse_is_told():
    with pytest.raises(ConfigError, match="'smooth'"):
        crop_faces([scene()], [0.0], [at(200, 80, 128)], size=32, align="smooth")
    with pytest.raises(ValueError, match="2 images, 1 timestamps"):
        crop_faces([scene()] * 2, [0.0], [at(200, 80, 128)], size=32)


def test_matrices_take_the_source_to_the_crop_and_boxes_say_where_the_face_was():
    images = [scene(seed=k) for k in range(4)]
    found = [at(200 + 5 * k, 80, 100) for k in range(4)]
    crops = crop_faces(images, [float(k) for k in range(4)], found, size=100, align="frame")
    for image, crop, box, matrix, face in zip(images, crops.images, crops.boxes, crops.matrices, found, strict=True):
        np.testing.assert_allclose(box, face.boxes[0])
        corner = matrix @ [box[0], box[1], 1]
        np.testing.assert_allclose(corner, [15, 20], atol=0.01)
        again = cv2.warpAffine(image, matrix, (100, 100), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(again.astype(int) - crop).mean() < 0.1
    assert (crops.boxes.dtype, crops.boxes.shape, crops.matrices.shape) == (np.float32, (4, 4), (4, 2, 3))


@pytest.mark.parametrize(("height", "width"), [(80, 80), (60, 100), (300, 200)])
def test_matrices_of_ready_made_crops_fit_too(height, width):
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x, y, 0 * x], axis=2).astype(np.uint8)  # each pixel holds its own place
    crops = crop_faces([picture], [0.0], build_detector("none").detect([picture]), size=64)
    inverse = cv2.invertAffineTransform(crops.matrices[0])
    middle = inverse @ [31, 35, 1]
    np.testing.assert_allclose(crops.images[0, 35, 31, :2], middle, atol=1.0)
    np.testing.assert_array_equal(crops.boxes, [[0, 0, width, height]])


def test_every_face_that_stays_is_cut_out_as_if_it_were_alone():
    images, times_s = [scene(seed=0)] * 6, [k / 2 for k in range(6)]
    left, right, passing = at(20, 80, 128), at(300, 100, 90), at(500, 20, 60)

    def together(*found):
        return make_detections(
            np.concatenate([f.boxes for f in found]),
            np.concatenate([f.scores for f in found]),
            np.concatenate([f.landmarks for f in found]),
        )

    found = [together(left, right, passing) if k == 2 else together(left, right) for k in range(6)]
    tracks = crop_all_faces(images, times_s, found, size=48, align="frame")
    assert [len(track.positions) for track, _ in tracks] == [6, 6, 1]
    assert tracks[2][1] is None
    for (_, crops), face in zip(tracks[:2], (left, right), strict=True):
        alone = crop_faces(images, times_s, [face] * 6, size=48, align="frame")
        np.testing.assert_array_equal(crops.images, alone.images)
        np.testing.assert_array_equal(crops.matrices, alone.matrices)
        assert (crops.report["tracks"], crops.report["faces_max"]) == (3, 3)
    with pytest.raises(MediaError, match="no face"):
        crop_all_faces(images[:1], [0.0], [make_detections()], size=48)
    (only,) = crop_all_faces(images[:1], [0.0], build_detector("none").detect(images[:1]), size=48)
    assert only[1].kept == (0,)


@pytest.mark.parametrize("shape", [(4, 60_000, 3), (60_000, 4, 3)])
def test_a_sliver_of_a_picture_is_refused_and_does_not_fill_the_memory(shape):
    """Its square would take 10 GB, in a build that must go on with the next file."""
    image = np.zeros(shape, np.uint8)
    h, w = shape[:2]
    for detections in ([make_detections([[0, 0, w, h]], [1.0])], build_detector("none").detect([image])):
        with pytest.raises(MediaError) as caught:
            crop_faces([image], [0.0], detections, size=32)
        assert caught.value.reason == "too_large"
