"""Write the corpus to disk: in a few spawned processes, atomically file by file, and only what is not there yet.

A file appears under its name when it is complete, so a killed build goes on where it was; `corpus.json` records seed,
version and size from the start, and `finished` at the end. Identities are the unit of work: a process sculpts a head
once and films all its takes.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from d2st.cache.errors import ConfigError
from d2st.pipeline.corpus.forge import forge
from d2st.pipeline.corpus.plan import CORPUS_VERSION, SPLITS, VIDEO_METHODS, Sample, plan_corpus
from d2st.pipeline.corpus.scene import FRAME_PX
from d2st.pipeline.corpus.take import FPS, head_of, shoot
from d2st.pipeline.media.encode import write_h264

__all__ = ["MARKER", "MASK_PX", "CorpusSummary", "make_corpus", "read_masks", "render_sample"]

MARKER = "corpus.json"
MASK_PX = 64
_MOST_WORKERS = 8


@dataclass(frozen=True)
class CorpusSummary:
    """What lies below `root` now. `reused` is how many of the `files` (masks not counted) were there already."""

    root: Path
    seed: int
    identities: int
    files: int
    reused: int
    videos: dict[str, dict[str, int]]  # split -> method -> files
    images: dict[str, dict[str, int]]

    @property
    def was_complete(self) -> bool:
        """Nothing had to be made."""
        return self.reused == self.files


def make_corpus(
    root: Path,
    *,
    seed: int = 0,
    identities: int = 36,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CorpusSummary:
    """Make (or complete, or find complete) the synthetic corpus of talking faces below `root`.

    Real files lie in `{train,val,test}/real`, fakes in `{train,val,test}/fake/<method>`, named `idNNN_K` or, for a swap,
    `idNNN_idMMM_K` (target, donor); the manipulated regions of fakes in `masks`, see `read_masks`. The same seed gives
    the same bytes. `on_progress(done, total)` counts files. `workers` processes (default: one a core, at most 8; 1: none
    but this one). Raises ConfigError where `root` holds something else: another corpus, or split folders of another origin.
    """
    root = Path(root)
    samples = plan_corpus(seed, identities)
    declared = {"corpus_version": CORPUS_VERSION, "seed": seed, "identities": identities}
    _claim(root, declared)
    missing = [sample for sample in samples if not _is_made(root, sample)]
    reused = len(samples) - len(missing)
    if on_progress is not None:
        on_progress(reused, len(samples))
    if missing:
        done = reused
        for made in _make_all(root, seed, missing, workers or min(_MOST_WORKERS, os.cpu_count() or 1)):
            done += made
            if on_progress is not None:
                on_progress(done, len(samples))
    _write_bytes(root / MARKER, json.dumps({**declared, "finished": True}, indent=1).encode())
    return CorpusSummary(root, seed, identities, len(samples), reused, _count(samples, "video"), _count(samples, "image"))


def render_sample(sample: Sample, *, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], dict]:
    """The frames of a sample (T of (256, 256, 3) uint8 RGB), its masks (T of (256, 256) float32; none for a real) and its
    encoder settings, before any encoding. A real and the fakes of its take differ inside the masks only."""
    footage = shoot(seed, sample.identity, sample.take, still=sample.kind == "image")
    settings = {"crf": footage.camera.crf, "jpeg_quality": footage.camera.jpeg_quality}
    if sample.method == "real":
        return footage.frames, [], settings
    rng = np.random.default_rng([seed, 3, sample.identity, sample.take, VIDEO_METHODS.index(sample.method)])
    donor = None if sample.donor is None else head_of(seed, sample.donor)
    frames, masks = forge(sample.method, footage, rng, donor=donor)
    return frames, masks, settings


def read_masks(root: Path, sample: Sample) -> np.ndarray:
    """Share of each cell of a 64 x 64 grid over the picture that was manipulated: (T, 64, 64) float32 in 0..1.

    Any pixel that a manipulation touched lies in a cell above 0. A real sample has no mask: KeyError.
    """
    if sample.mask_path is None:
        raise KeyError(f"{sample.path} is real and has no mask")
    with np.load(Path(root) / sample.mask_path, allow_pickle=False) as stored:
        return stored["masks"].astype(np.float32) / 255


def _claim(root: Path, declared: dict) -> None:
    """Leave our marker, or find it; refuse a folder that holds something else."""
    marker = root / MARKER
    if marker.exists():
        try:
            found = json.loads(marker.read_text())
        except ValueError:
            raise ConfigError(f"{marker} is not readable as JSON", fix=f"Delete {root} or name another folder") from None
        for name, value in declared.items():
            if found.get(name) != value:
                raise ConfigError(
                    f"{root} holds a corpus with {name} {found.get(name)}, and {value} was asked for",
                    fix="Name another folder, or delete this one",
                )
        return
    taken = [name for name in (*SPLITS, "masks") if (root / name).exists()]
    if taken:
        raise ConfigError(f"{root} already holds {', '.join(taken)}, not made here", fix="Name a new or an empty folder")
    root.mkdir(parents=True, exist_ok=True)
    _write_bytes(marker, json.dumps({**declared, "finished": False}, indent=1).encode())


def _is_made(root: Path, sample: Sample) -> bool:
    return (root / sample.path).is_file() and (sample.mask_path is None or (root / sample.mask_path).is_file())


def _make_all(root: Path, seed: int, missing: list[Sample], workers: int):
    """Yield how many files each finished job wrote. One job is one identity's takes."""
    jobs = [list(group) for _, group in groupby(missing, key=lambda sample: sample.identity)]
    jobs = [sorted(job, key=lambda sample: (sample.kind, sample.take, sample.method)) for job in jobs]
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            yield _make_job(root, seed, job)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    try:
        for finished in as_completed([pool.submit(_make_job, root, seed, job) for job in jobs]):
            yield finished.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_job(root: Path, seed: int, job: list[Sample]) -> int:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for sample in job:
            _make_file(root, sample, seed=seed)
    finally:
        cv2.setNumThreads(threads)
    return len(job)


def _make_file(root: Path, sample: Sample, *, seed: int) -> None:
    frames, masks, settings = render_sample(sample, seed=seed)
    if sample.mask_path is not None:
        _write_bytes(root / sample.mask_path, _pack_masks(masks))
    path = root / sample.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if sample.kind == "video":
        write_h264(path, frames, fps=FPS, crf=settings["crf"])
        return
    bgr = np.ascontiguousarray(frames[0][..., ::-1])
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, settings["jpeg_quality"]])
    _write_bytes(path, jpeg.tobytes())


def _pack_masks(masks: list[np.ndarray]) -> bytes:
    cells = FRAME_PX // MASK_PX
    grid = np.stack(masks).reshape(len(masks), MASK_PX, cells, MASK_PX, cells).mean((2, 4))  # (T,256,256) -> (T,64,64)
    buffer = BytesIO()
    np.savez_compressed(buffer, masks=np.ceil(grid * 255).astype(np.uint8))
    return buffer.getvalue()


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _count(samples: list[Sample], kind: str) -> dict[str, dict[str, int]]:
    return {split: dict(Counter(s.method for s in samples if s.kind == kind and s.split == split)) for split in SPLITS}
