"""One sample to one media file, and the mask of what was manipulated beside it.

Every file is written under another name and renamed when complete, the mask before the medium: a medium under its name
means that the sample is finished, whatever interrupted the rest.
"""

import os
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from d2st.pipeline.corpus.forge import forge
from d2st.pipeline.corpus.plan import VIDEO_METHODS, Sample
from d2st.pipeline.corpus.scene import FRAME_PX, Camera
from d2st.pipeline.corpus.take import FPS, head_of, shoot
from d2st.pipeline.media.encode import write_h264

__all__ = ["MASK_PX", "is_made", "make_file", "read_masks", "render_sample", "unseen_clips", "write_bytes"]

MASK_PX = 64
_STRANGERS = (900, 901)  # identities that no corpus plans: they are in no split


def render_sample(sample: Sample, *, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], Camera]:
    """A sample before any encoding: its frames, T of (256, 256, 3) uint8 RGB; its masks, T of (256, 256) float32 in 0..1
    (none for a real one); and the camera with the encoder's settings.

    A real sample and the fakes of its take differ inside the masks only, and share the settings.
    """
    footage = shoot(seed, sample.identity, sample.take, still=sample.kind == "image")
    if sample.method == "real":
        return footage.frames, [], footage.camera
    rng = np.random.default_rng([seed, 3, sample.identity, sample.take, VIDEO_METHODS.index(sample.method)])
    donor = None if sample.donor is None else head_of(seed, sample.donor)
    frames, masks = forge(sample.method, footage, rng, donor=donor)
    return frames, masks, footage.camera


def read_masks(root: Path, sample: Sample) -> np.ndarray:
    """How much of each cell of a 64 x 64 grid over the picture was manipulated: (T, 64, 64) float32 in 0..1.

    Any pixel that the manipulation touched lies in a cell above 0. A real sample has no masks: KeyError.
    """
    if sample.mask_path is None:
        raise KeyError(f"{sample.path} is real and has no masks")
    with np.load(Path(root) / sample.mask_path, allow_pickle=False) as stored:
        return stored["masks"].astype(np.float32) / 255


def unseen_clips(folder: Path, *, seed: int = 0) -> list[Path]:
    """Two clips of people that no split holds: a take as it was filmed, and the same take with its face swapped."""
    clips = {
        "unseen_real.mp4": Sample("test", "real", "video", _STRANGERS[0], 0),
        "unseen_swap.mp4": Sample("test", "swap", "video", _STRANGERS[0], 0, _STRANGERS[1]),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, sample in clips.items():
        frames, _, camera = render_sample(sample, seed=seed)
        write_h264(folder / name, frames, fps=FPS, crf=camera.crf)
    return [folder / name for name in clips]


def is_made(root: Path, sample: Sample) -> bool:
    """The sample's medium, and its masks if it is a fake, are there."""
    return (root / sample.path).is_file() and (sample.mask_path is None or (root / sample.mask_path).is_file())


def make_file(root: Path, sample: Sample, *, seed: int) -> None:
    """Render a sample and write its medium, and its masks if it is a fake."""
    frames, masks, camera = render_sample(sample, seed=seed)
    if sample.mask_path is not None:
        write_bytes(root / sample.mask_path, _pack_masks(masks))
    path = root / sample.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if sample.kind == "video":
        write_h264(path, frames, fps=FPS, crf=camera.crf)
        return
    bgr = np.ascontiguousarray(frames[0][..., ::-1])
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality])
    write_bytes(path, jpeg.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file so that it appears whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _pack_masks(masks: list[np.ndarray]) -> bytes:
    cell = FRAME_PX // MASK_PX
    grid = np.stack(masks).reshape(len(masks), MASK_PX, cell, MASK_PX, cell).mean((2, 4))  # (T,256,256) -> (T,64,64)
    buffer = BytesIO()
    np.savez_compressed(buffer, masks=np.clip(np.ceil(grid * 255), 0, 255).astype(np.uint8))
    return buffer.getvalue()
