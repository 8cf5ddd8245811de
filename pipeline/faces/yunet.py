"""YuNet (Wu, Peng, Yu 2023, doi 10.1007/s11633-023-1423-y) through OpenCV's `FaceDetectorYN`: faster on a CPU than MTCNN.

OpenCV's wheels carry the code and not the model, and d2st downloads nothing by itself, so the user names the ONNX file.
The file's bytes are hashed and those bytes are handed to OpenCV, so the digest in the fingerprint is that of what really ran.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from d2st.cache.errors import WeightsError

from .detections import Detections, make_detections

__all__ = ["YuNet", "load_yunet"]

LONG_SIDE_PX, MIN_SCORE, NMS_IOU, MAX_FACES = 640, 0.8, 0.3, 750
FIX = (
    "Get face_detection_yunet_2023mar.onnx (0.2 MB) from https://huggingface.co/opencv/face_detection_yunet and name it with "
    "--detector-weights FILE, or use --detector mtcnn, which needs no file"
)


def load_yunet(weights: Path | None) -> "YuNet":
    """YuNet from an ONNX file. Raises WeightsError if there is none, or OpenCV can't read it."""
    if weights is None:
        raise WeightsError("the detector yunet needs its model file", fix=FIX)
    try:
        data = Path(weights).read_bytes()
    except OSError as error:
        raise WeightsError(f"the YuNet model {weights} can't be read ({error.strerror})", fix=FIX) from error
    if data.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{weights} is a git-LFS pointer of {len(data)} bytes and not the model itself", fix=FIX)
    try:
        return YuNet(data)
    except cv2.error as error:
        raise WeightsError(f"OpenCV can't read {weights} as a YuNet model ({error.err})", fix=FIX) from error


class YuNet:
    """Finds faces with a score of 0.8 or more, in images that are first shrunk to a long side of 640 px. Runs on the CPU."""

    name = "yunet"

    def __init__(self, model: bytes) -> None:
        self.digest = hashlib.sha256(model).hexdigest()
        self._model = model
        self._nets = threading.local()  # OpenCV's object holds the size of the picture that it looks at: one a thread
        self._net()

    def _net(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._nets, "mine"):
            buffer, nothing = np.frombuffer(self._model, np.uint8), np.zeros(0, np.uint8)
            self._nets.mine = cv2.FaceDetectorYN.create("onnx", buffer, nothing, (320, 320), MIN_SCORE, NMS_IOU, MAX_FACES)
        return self._nets.mine

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """images: (H, W, 3) uint8 RGB, any sizes -> one `Detections` an image, best first."""
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Detections:
        h, w = image.shape[:2]
        scale = min(1.0, LONG_SIDE_PX / max(h, w))
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        net = self._net()
        net.setInputSize(size)
        _, rows = net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return make_detections()
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]  # (K, 15): x, y, w, h, five points, score
        back = np.array([w / size[0], h / size[1]], np.float32)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1) * np.tile(back, 2)
        # YuNet names the eyes by the person: its "right eye" comes first and lies left in the picture, as ours do
        return make_detections(boxes, np.clip(rows[:, 14], 0, 1), (rows[:, 4:14].reshape(-1, 5, 2) + 0.5) * back - 0.5)
