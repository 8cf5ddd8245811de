"""Scores the samples of a cache with a trained detector: one row of predictions a sample.

All clips of a batch have the same number of frames, so a score does not depend on what else is in its batch (beyond the rounding of a
matrix product). Samples are read in the order in which they lie on the disk, and given back in the order in which they were asked for.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import torch

from d2st.adapter.nets.detector import Detector, Output
from d2st.adapter.rows import clip_rows, pad_rows
from d2st.cache import Request, TokenLoader
from d2st.cache.errors import RunError

__all__ = ["PREDICTIONS", "clip_outputs", "score_samples"]

PREDICTIONS = pl.Schema(
    {
        "sample_id": pl.String,
        "dataset": pl.String,
        "method": pl.String,
        "label": pl.Int8,
        "split": pl.Enum(["train", "val", "test"]),
        "kind": pl.Enum(["image", "video", "frames"]),
        "video_id": pl.String,
        "identity": pl.List(pl.String),
        "frames": pl.Int32,  # frames that the score rests on
        "logit": pl.Float64,
        "score": pl.Float64,  # P(fake) = sigmoid(logit)
        "frame_scores": pl.List(pl.Float64),
    }
)
CARRIED = ("sample_id", "dataset", "method", "label", "split", "kind", "video_id", "identity")


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
        on_progress: called as (clips done, clips in all) after each batch.

    Raises:
        RunError: the detector gave NaN or infinity; names the sample.
    """
    if samples.is_empty():
        return PREDICTIONS.to_frame()
    logits: list[list[float]] = [[] for _ in range(len(samples))]  # one a clip
    frame_logits: list[list[float]] = [[] for _ in range(len(samples))]
    made = clip_outputs(detector, loader, samples, clip_frames=clip_frames, batch_frames=batch_frames, on_progress=on_progress)
    for positions, mask, output in made:
        clip = output.clip_logit.double().cpu().numpy()  # (B,)
        # a frame alone is its clip, so both scores are one there
        frame = output.frame_logits.double().cpu().numpy() if mask.shape[1] > 1 else clip[:, None]  # (B, T)
        for position, value, values, kept in zip(positions, clip, frame, mask, strict=True):
            logits[position].append(float(value))
            frame_logits[position].extend(values[kept].tolist())
    return _predictions(samples, logits, frame_logits)


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
    device = next((p.device for p in detector.parameters()), torch.device("cpu"))
    plan = _plan(samples, clip_frames=clip_frames, batch_frames=batch_frames)
    total, done = sum(len(positions) for positions, _ in plan), 0
    training = detector.training
    detector.eval()
    try:
        for batch in loader.stream(Request(rows=rows, tag=positions) for positions, rows in plan):
            tokens = {name: value.to(device) for name, value in batch.tokens.items()}  # (B, T, H, W, C) a layer
            cls = {name: value.to(device) for name, value in batch.cls.items()}  # (B, T, C) a layer
            with torch.inference_mode():
                output = detector(tokens, cls, batch.mask.to(device))
            yield batch.tag, batch.mask.cpu().numpy(), output
            done += len(batch.tag)
            if on_progress is not None:
                on_progress(done, total)
    finally:
        detector.train(training)


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


def _predictions(samples: pl.DataFrame, logits: list[list[float]], frame_logits: list[list[float]]) -> pl.DataFrame:
    # (N,)
    logit = np.array([np.mean(values) for values in logits])
    bad = np.flatnonzero(~np.isfinite(logit) | ~np.array([np.isfinite(values).all() for values in frame_logits]))
    if bad.size:
        names = ", ".join(samples["sample_id"].gather(bad[:3]))
        raise RunError(
            f"the detector gave NaN or infinity for {bad.size} of {len(samples)} samples, among them {names}",
            fix="Its weights are not usable: look at the run's losses, and train again with a lower learning rate",
        )
    made = samples.select(CARRIED).with_columns(
        frames=pl.Series([len(values) for values in frame_logits], dtype=pl.Int32),
        logit=pl.Series(logit),
        score=pl.Series(_sigmoid(logit)),
        frame_scores=pl.Series([_sigmoid(np.array(values)).tolist() for values in frame_logits], dtype=pl.List(pl.Float64)),
    )
    return made.cast(dict(PREDICTIONS))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(logit / 2)) / 2  # no overflow at either end
