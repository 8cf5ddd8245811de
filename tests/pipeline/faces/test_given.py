import json

import numpy as np
import pytest

from d2st.cache.errors import ManifestError
from d2st.pipeline.faces import crop_faces, given_detections, sidecar_path

POINTS = [[120, 150], [170, 150], [145, 180], [125, 205], [165, 205]]
BOX = [100, 110, 190, 230]


@pytest.fixture
def media(tmp_path):
    return tmp_path / "clip.mp4"


def write(media, content):
    sidecar_path(media).write_text(content if isinstance(content, str) else json.dumps(content))


def test_nothing_given_is_none(media):
    assert given_detections(media, [0, 5]) is None


def test_sidecar_lies_beside_file_and_folder(tmp_path):
    assert sidecar_path(tmp_path / "a.b.mp4").name == "a.b.mp4.faces.json"


def test_manifest_values_hold_for_every_frame(media):
    found = given_detections(media, [0, 7], box=BOX, landmarks=np.ravel(POINTS).tolist())
    assert len(found) == 2
    np.testing.assert_array_equal(found[1].boxes, [BOX])
    np.testing.assert_array_equal(found[1].landmarks, [POINTS])
    np.testing.assert_array_equal(found[1].scores, [1.0])


def test_a_box_alone_has_no_landmarks_and_can_be_cropped(media):
    found = given_detections(media, [0], box=BOX)
    assert np.isnan(found[0].landmarks).all()
    assert crop_faces([np.zeros((300, 300, 3), np.uint8)], [0.0], found, size=32).report["aligned_by"] == "box"


def test_landmarks_alone_get_a_box_around_the_face(media):
    (found,) = given_detections(media, [0], landmarks=np.ravel(POINTS).tolist())
    x0, y0, x1, y1 = found.boxes[0]
    assert x0 < 120
    assert x1 > 170
    assert y0 < 150
    assert y1 > 205


def test_sidecar_frames_take_the_place_of_faces_and_go_before_the_manifest(media):
    write(
        media, {"faces": [{"box": BOX}], "frames": {"3": [], "7": [{"box": [0, 0, 9, 9], "score": 0.2}, {"landmarks": POINTS}]}}
    )
    first, third, seventh = given_detections(media, [0, 3, 7], box=[0, 0, 1, 1])
    np.testing.assert_array_equal(first.boxes, [BOX])
    assert len(third) == 0
    np.testing.assert_allclose(seventh.scores, [1.0, 0.2])  # best first


def test_frames_that_a_sidecar_does_not_mention_show_no_face(media):
    write(media, {"frames": {"3": [{"box": BOX}]}})
    assert [len(f) for f in given_detections(media, [3, 4])] == [1, 0]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{nonsense", "top level"),
        ({}, "neither faces nor frames"),
        ({"face": []}, "face: "),
        ({"faces": [{"box": BOX, "landmark": POINTS}]}, "faces > 0 > landmark"),
        ({"faces": [{}]}, "needs a box or landmarks"),
        ({"faces": [{"box": [1, 2, 3]}]}, "faces > 0 > box"),
        ({"faces": [{"box": [10, 10, 5, 20]}]}, "x1 > x0"),
        ({"faces": [{"box": ["1", 2, 3, 4]}]}, "faces > 0 > box > 0"),
        ('{"faces": [{"box": [0, 0, 1, Infinity]}]}', "faces > 0 > box > 3"),
        ({"faces": [{"box": BOX, "score": 7}]}, "faces > 0 > score"),
        ({"faces": [{"landmarks": POINTS[:4]}]}, "faces > 0 > landmarks"),
        ({"faces": [{"landmarks": [POINTS[k] for k in (1, 0, 2, 4, 3)]}]}, "mirrored"),
        ({"faces": [{"landmarks": [[5, 5]] * 5}]}, "one line"),
        ({"frames": {"first": []}}, "frames > first"),
    ],
)
def test_a_wrong_sidecar_is_refused_with_its_name_and_place(media, content, place):
    write(media, content)
    with pytest.raises(ManifestError) as caught:
        given_detections(media, [0])
    assert "clip.mp4.faces.json" in str(caught.value)
    assert place in str(caught.value)


def test_wrong_manifest_values_are_refused(media):
    with pytest.raises(ManifestError, match=r"clip\.mp4.*x1 > x0"):
        given_detections(media, [0], box=[5, 5, 1, 1])
    with pytest.raises(ManifestError, match=r"clip\.mp4"):
        given_detections(media, [0], landmarks=[1.0] * 9)
    with pytest.raises(ManifestError, match=r"clip\.mp4"):
        given_detections(media, [0], landmarks=[1.0] * 8)
