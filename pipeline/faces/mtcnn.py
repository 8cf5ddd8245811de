"""The default face detector: MTCNN (Zhang, Zhang, Li, Qiao 2016, arXiv 1604.02878) in plain torch.

Three networks in a cascade: P-Net proposes windows on an image pyramid, R-Net refuses most of them, O-Net decides and places
five landmarks. What is ours: O-Net looks twice more at each face, through the box that it corrected itself, upright and
mirrored, which takes the shake of the landmarks from 1.8 % of the distance between the eyes to 0.6 %.

The decision that shaped it: what is found in an image must not depend on which other images are in the call, since calls
are grouped differently when a build is resumed or a single file is scored. So every pass has a fixed batch size, filled up
with blanks. Resizing is done by OpenCV on the CPU, the networks run on `device`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from .boxes import keep_separate, make_square
from .detections import Detections, make_detections
from .mtcnn_nets import ONET_SIDE, PNET_CELL, PNET_STRIDE, RNET_SIDE, onet, pnet, rnet
from .mtcnn_weights import MtcnnWeights, load_mtcnn_weights
from .pyramid import Pyramid, lay_pyramid, paint_pyramid
from .windows import cut, halvings, shift_boxes, shrink, suppress

__all__ = ["Mtcnn", "load_mtcnn"]

LONG_SIDE_PX, MIN_FACE_PX = 640, 40
PNET_SCORE, RNET_SCORE, ONET_SCORE = 0.6, 0.7, 0.9
SETTLING_LOOKS = 2
RNET_BATCH, ONET_BATCH = 16, 8
PNET_BATCH_CPU, PNET_BATCH_GPU = 1, 16
MIRRORED = [1, 0, 2, 4, 3]  # the landmarks' order in a mirrored picture


def load_mtcnn(weights: Path | None = None, *, device: str = "cpu") -> "Mtcnn":
    """MTCNN with the weights of the installed `mtcnn` wheel, or of a folder with its three files."""
    return Mtcnn(load_mtcnn_weights(weights, device=device), device=device)


class Mtcnn:
    """Finds faces of 40 px and more, in images that are first shrunk to a long side of 640 px where they are larger."""

    name = "mtcnn"

    def __init__(self, weights: MtcnnWeights, *, device: str) -> None:
        self.digest = weights.digest
        self._weights = weights
        self._device = torch.device(device)
        self._pnet_batch = PNET_BATCH_CPU if self._device.type == "cpu" else PNET_BATCH_GPU

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """images: (H, W, 3) uint8 RGB, any sizes -> one `Detections` an image, faces with a score of 0.9 or more, best first."""
        with _one_thread(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            small = [halvings(shrink(image, LONG_SIDE_PX)) for image in images]
            owners, boxes = self._refine(small, *self._propose(small))
            owners, boxes, scores = self._decide(small, owners, boxes)
            boxes, marks = self._settle(small, owners, boxes)
        found = []
        for k, (image, (shrunk, *_)) in enumerate(zip(images, small, strict=True)):
            mine = owners == k
            back = np.array([image.shape[1] / shrunk.shape[1], image.shape[0] / shrunk.shape[0]], np.float32)
            # windows count from the edge of pixel 0, landmarks from its centre
            found.append(make_detections(boxes[mine] * np.tile(back, 2), scores[mine], marks[mine] * back - 0.5))
        return found

    def _propose(self, images: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """P-Net. -> (K,) which image a window is of, (K, 4) square windows."""
        windows = [np.zeros((0, 4), np.float32)] * len(images)
        groups: dict[tuple[int, int], list[int]] = {}
        for k, image in enumerate(images):
            groups.setdefault(image[0].shape[:2], []).append(k)
        for size, members in groups.items():
            pyramid = lay_pyramid(*size, MIN_FACE_PX)
            if pyramid is None:
                continue
            canvases = [paint_pyramid(images[k], pyramid) for k in members]
            found = self._run(lambda x: pnet(self._weights.pnet, x), canvases, self._pnet_batch)
            for k, scores, shifts in zip(members, *found, strict=True):
                windows[k] = _windows(pyramid, scores, shifts)
        owners = [np.full(len(found), k) for k, found in enumerate(windows)]
        return np.concatenate([np.zeros(0, np.int64), *owners]), np.concatenate([np.zeros((0, 4), np.float32), *windows])

    def _refine(self, images: list[list[np.ndarray]], owners: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R-Net. -> as `_propose`, fewer."""
        if len(boxes) == 0:
            return owners, boxes
        crops = [cut(images[k], box, RNET_SIDE) for k, box in zip(owners, boxes, strict=True)]
        scores, shifts = self._run(lambda x: rnet(self._weights.rnet, x), crops, RNET_BATCH)
        good = scores >= RNET_SCORE
        owners, boxes, scores = owners[good], shift_boxes(boxes[good], shifts[good]), scores[good]
        kept = _separately(suppress, owners, boxes, scores)
        return owners[kept], make_square(boxes[kept])

    def _decide(self, images: list[list[np.ndarray]], owners: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        """O-Net. -> (K,) which image a face is in, (K, 4) boxes, (K,) scores; the faces of an image best first."""
        if len(boxes) == 0:
            return owners, boxes, np.zeros(0, np.float32)
        crops = [cut(images[k], box, ONET_SIDE) for k, box in zip(owners, boxes, strict=True)]
        scores, shifts, _ = self._run(lambda x: onet(self._weights.onet, x), crops, ONET_BATCH)
        good = scores >= ONET_SCORE
        owners, boxes, scores = owners[good], shift_boxes(boxes[good], shifts[good]), scores[good]
        kept = _separately(keep_separate, owners, boxes, scores)
        return owners[kept], boxes[kept], scores[kept]

    def _settle(self, images: list[list[np.ndarray]], owners: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """O-Net again, through the boxes found, upright and mirrored. -> (K, 4) better boxes, (K, 5, 2) landmarks."""
        marks = np.zeros((len(boxes), 5, 2), np.float32)
        for _ in range(SETTLING_LOOKS if len(boxes) else 0):
            squares = make_square(boxes)
            crops = [cut(images[k], box, ONET_SIDE) for k, box in zip(owners, squares, strict=True)]
            both = [*crops, *(crop[:, ::-1] for crop in crops)]
            _, shifts, points = self._run(lambda x: onet(self._weights.onet, x), both, ONET_BATCH)
            upright, mirrored = points.reshape(2, -1, 2, 5).transpose(0, 1, 3, 2)  # (K, 5, 2) each
            mirrored = mirrored[:, MIRRORED] * (-1, 1) + (1, 0)
            marks = squares[:, None, :2] + (upright + mirrored) / 2 * (squares[:, None, 2:] - squares[:, None, :2])
            upright, mirrored = shifts.reshape(2, -1, 4)
            boxes = shift_boxes(squares, (upright + mirrored[:, [2, 1, 0, 3]] * (-1, 1, -1, 1)) / 2)
        return boxes, marks

    def _run(self, net: Callable, pictures: list[np.ndarray], batch: int) -> list[np.ndarray]:
        """Run a network over (S, S', 3) uint8 pictures of one size in batches of exactly `batch`; outputs joined, as arrays."""
        parts = []
        for at in range(0, len(pictures), batch):
            part = pictures[at : at + batch]
            pixels = np.zeros((batch, *part[0].shape), np.uint8)
            pixels[: len(part)] = part
            x = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float()  # (N, 3, S, S'), channels last
            parts.append([out[: len(part)].cpu().numpy() for out in net(x.sub_(127.5).div_(128))])
        return [np.concatenate(outs) for outs in zip(*parts, strict=True)]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _windows(pyramid: Pyramid, scores: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """P-Net's output (h, w), (4, h, w) on one canvas -> square windows (K, 4) in image px."""
    y, x = np.nonzero((scores >= PNET_SCORE) & (pyramid.cells >= 0))
    level, scores, shifts = pyramid.cells[y, x], scores[y, x], shifts[:, y, x].T
    corner = np.stack([x, y], axis=1) * PNET_STRIDE - pyramid.levels[level][:, 1::-1]
    scale = np.tile(pyramid.scales[level], 2)  # (K, 4)
    boxes = (np.concatenate([corner, corner + PNET_CELL], axis=1) * scale).astype(np.float32)
    apart = level[:, None] * np.float32(4096)  # moves levels apart, so that one pass suppresses within each alone
    kept = suppress(boxes + apart, scores, 0.5)
    kept = kept[suppress(boxes[kept], scores[kept], 0.7)]
    return make_square(shift_boxes(boxes[kept], shifts[kept]))


def _separately(rule: Callable, owners: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which of the boxes a rule of suppression keeps at an overlap of 0.7, when each image is looked at alone."""
    groups = [np.flatnonzero(owners == k) for k in np.unique(owners)]
    return np.concatenate([np.zeros(0, np.int64), *(g[rule(boxes[g], scores[g], 0.7)] for g in groups)])
