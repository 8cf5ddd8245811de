"""Scores the samples of a cache with a trained detector: one row of predictions a sample.

All clips of a batch have the same number of frames, so a score does not depend on what else is in its batch (beyond the rounding of a
matrix product). Samples are read in the order in which they lie on the disk, and given back in the order in which they were asked for.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import torch

from d2st.adapter.evaluate.score_table import PREDICTIONS, ScoreTable
from d2st.adapter.nets.detector import Detector, Output
from d2st.adapter.rows import clip_rows, pad_rows
from d2st.cache import Request, TokenLoader
from d2st.cache.errors import RunError

__all__ = ["PREDICTIONS", "clip_outputs", "score_samples", "score_together"]


def score_samples(
    detector: Detector,
    loader: TokenLoader,
    samples: pl.DataFrame,
    *,
    clip_frames: int,
    batch_frames: int = 96,
    on_progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Predictions of `samples`, in their order, with the columns of `PREDICTIONS`.

    An image is a clip of one frame. A video (or folder of frames) is one clip of `clip_frames` evenly chosen cached frames, padded by mask
    when it has fewer; with `clip_frames` 1 each of its cached frames is scored alone, and its logit is the mean of theirs. A frame's score
    is that of the frame alone where T = 1, else that of the frame within its clip.

    Args:
        detector: scores in eval mode; its own mode is put back afterwards.
        loader: gives batches on any device; they are moved to the detector's.
        samples: manifest columns with `start` and `frames_cached`, as `Store.samples` gives them.
        batch_frames: about how many frames a batch holds; only speed and memory depend on it.
        on_progress: called as (clips done, clips in all) at the start and after each batch.

    Raises:
        RunError: the detector gave NaN or infinity; names the sample.
    """
    (made,) = score_together(
        [detector], loader, samples, clip_frames=clip_frames, batch_frames=batch_frames, on_progress=on_progress
    )
    if isinstance(made, RunError):
        raise made
    return made


def score_together(
    detectors: Sequence[Detector],
    loader: TokenLoader,
    samples: pl.DataFrame,
    *,
    clip_frames: int,
    batch_frames: int = 96,
    on_progress: Callable[[int, int], None] | None = None,
    speak: Callable[..., Sequence[Output]] | None = None,
) -> list[pl.DataFrame | RunError]:
    """What `score_samples` says of each of the detectors, or the error that it would raise; all share one pass over the samples.

    Args:
        detectors: all on one device. Other arguments are as in `score_samples`; the loader reads the layers of all of them.
        speak: gives the outputs of all detectors for (tokens, cls, mask); by default each is called.
    """
    if samples.is_empty():
        return [PREDICTIONS.to_frame() for _ in detectors]
    tables = [ScoreTable(samples) for _ in detectors]
    made = _outputs(
        detectors,
        speak or (lambda *batch: [detector(*batch) for detector in detectors]),
        loader,
        samples,
        clip_frames=clip_frames,
        batch_frames=batch_frames,
        on_progress=on_progress,
    )
    for positions, mask, outputs in made:
        for table, output in zip(tables, outputs, strict=True):
            table.add(positions, mask, output)
    return [table.predictions() for table in tables]


def clip_outputs(
    detector: Detector,
    loader: TokenLoader,
    samples: pl.DataFrame,
    *,
    clip_frames: int,
    batch_frames: int = 96,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[list[int], np.ndarray, Output]]:
    """What the detector says of the clips of `samples`, batch by batch; arguments as in `score_samples`.

    Yields:
        Positions in `samples` (B,), mask (B, T) and output, all to be used before the next batch is asked for.
    """
    made = _outputs(
        [detector],
        lambda *batch: [detector(*batch)],
        loader,
        samples,
        clip_frames=clip_frames,
        batch_frames=batch_frames,
        on_progress=on_progress,
    )
    return ((positions, mask, output) for positions, mask, (output,) in made)


def _outputs(
    detectors: Sequence[Detector],
    speak: Callable[..., Sequence[Output]],
    loader: TokenLoader,
    samples: pl.DataFrame,
    *,
    clip_frames: int,
    batch_frames: int,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[list[int], np.ndarray, Sequence[Output]]]:
    device = next((p.device for p in detectors[0].parameters()), torch.device("cpu"))
    plan = _plan(samples, clip_frames=clip_frames, batch_frames=batch_frames)
    total, done = sum(len(positions) for positions, _ in plan), 0
    training = [detector.training for detector in detectors]
    for detector in detectors:
        detector.eval()
    if on_progress is not None:
        on_progress(0, total)  # the clock starts
    try:
        for batch in loader.stream(Request(rows=rows, tag=positions) for positions, rows in plan):
            tokens = {name: value.to(device) for name, value in batch.tokens.items()}  # (B, T, H, W, C) a layer
            cls = {name: value.to(device) for name, value in batch.cls.items()}  # (B, T, C) a layer
            with torch.inference_mode():
                outputs = speak(tokens, cls, batch.mask.to(device))
            yield batch.tag, batch.mask.cpu().numpy(), outputs
            done += len(batch.tag)
            if on_progress is not None:
                on_progress(done, total)
    finally:
        for detector, before in zip(detectors, training, strict=True):
            detector.train(before)


def _plan(samples: pl.DataFrame, *, clip_frames: int, batch_frames: int) -> list[tuple[list[int], np.ndarray]]:
    """Batches (positions of the samples (B,), rows (B, T)), one T in each, rows rising."""
    alone: list[tuple[int, list[int]]] = []
    clips: list[tuple[int, list[int]]] = []
    placed = samples.select("kind", "start", "frames_cached").with_row_index("position").sort("start")
    for position, kind, start, cached in placed.iter_rows():
        if kind == "image":
            alone.append((position, clip_rows(start, cached, 1)))
        elif clip_frames == 1:
            alone += [(position, [row]) for row in clip_rows(start, cached, cached)]
        else:
            clips.append((position, clip_rows(start, cached, clip_frames)))
    return [*_batches(alone, 1, batch_frames), *_batches(clips, clip_frames, batch_frames)]


def _batches(clips: Sequence[tuple[int, list[int]]], frames: int, batch_frames: int) -> Iterator[tuple[list[int], np.ndarray]]:
    step = max(1, batch_frames // frames)
    for begin in range(0, len(clips), step):
        part = clips[begin : begin + step]
        yield [position for position, _ in part], pad_rows([rows for _, rows in part], frames)
