import cv2
import numpy as np
import pytest

from d2st.cache.errors import UnknownNameError, WeightsError
from d2st.pipeline.faces import build_detector, detector_names


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as caught:
        build_detector("dlib", weights=None, device="cpu")
    for name in detector_names():
        assert name in str(caught.value)


def test_detector_none_takes_each_image_whole():
    (found,) = build_detector("none").detect([np.zeros((20, 30, 3), np.uint8)])
    assert found.is_crop
    np.testing.assert_array_equal(found.boxes, [[0, 0, 30, 20]])


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
def test_yunet_without_its_model_says_how_to_get_it_and_what_to_use_instead(tmp_path, content):
    path = tmp_path / "yunet.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        build_detector("yunet", weights=path)
    assert str(path) in str(caught.value)
    assert "--detector mtcnn" in str(caught.value)


def test_yunet_needs_a_file_named():
    with pytest.raises(WeightsError, match="--detector-weights"):
        build_detector("yunet")


def test_yunet_scales_back_to_the_image_and_wants_bgr(tmp_path, monkeypatch):
    class FakeNet:
        def setInputSize(self, size):
            self.size = size

        def detect(self, image):
            assert image.shape[:2] == (320, 640)
            assert tuple(image[0, 0]) == (3, 2, 1)  # OpenCV's order
            weak, strong = [10, 20, 30, 40, *range(10), 0.85], [100, 50, 80, 90, *[9.5] * 10, 0.95]
            return 1, np.array([weak, strong], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *a: FakeNet())
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"model")
    detector = build_detector("yunet", weights=path)
    assert len(detector.digest) == 64
    (found,) = detector.detect([np.full((640, 1280, 3), (1, 2, 3), np.uint8)])
    np.testing.assert_allclose(found.boxes, [[200, 100, 360, 280], [20, 40, 80, 120]])
    np.testing.assert_allclose(found.scores, [0.95, 0.85])
    np.testing.assert_allclose(found.landmarks[0], 19.5)  # pixel centres
