"""The table of predictions that scoring fills, batch by batch: one row a sample, whatever its number of clips."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from d2st.adapter.evaluate.calibration import sigmoid
from d2st.adapter.nets.detector import Output
from d2st.cache.errors import RunError

__all__ = ["CARRIED", "PREDICTIONS", "ScoreTable"]

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


class ScoreTable:
    """The scores of one detector as they come in."""

    def __init__(self, samples: pl.DataFrame) -> None:
        self._samples = samples
        self._logits: list[list[float]] = [[] for _ in range(len(samples))]  # one a clip
        self._frame_logits: list[list[float]] = [[] for _ in range(len(samples))]

    def add(self, positions: Sequence[int], mask: np.ndarray, output: Output) -> None:
        """Take in the clips of samples number `positions` (B,), with mask (B, T)."""
        clip = output.clip_logit.double().cpu().numpy()  # (B,)
        # a frame alone is its clip, so both scores are one there
        frame = output.frame_logits.double().cpu().numpy() if mask.shape[1] > 1 else clip[:, None]  # (B, T)
        for position, value, values, kept in zip(positions, clip, frame, mask, strict=True):
            self._logits[position].append(float(value))
            self._frame_logits[position].extend(values[kept].tolist())

    def predictions(self) -> pl.DataFrame | RunError:
        """The finished table, or what is wrong with it."""
        samples = self._samples
        logit = np.array([np.mean(values) for values in self._logits])  # (N,)
        bad = np.flatnonzero(~np.isfinite(logit) | ~np.array([np.isfinite(values).all() for values in self._frame_logits]))
        if bad.size:
            names = ", ".join(samples["sample_id"].gather(bad[:3]))
            return RunError(
                f"the detector gave NaN or infinity for {bad.size} of {len(samples)} samples, among them {names}",
                fix="Its weights are not usable: look at the run's losses, and train again with a lower learning rate",
            )
        frames = [sigmoid(np.array(values)).tolist() for values in self._frame_logits]
        made = samples.select(CARRIED).with_columns(
            frames=pl.Series([len(values) for values in frames], dtype=pl.Int32),
            logit=pl.Series(logit),
            score=pl.Series(sigmoid(logit)),
            frame_scores=pl.Series(frames, dtype=pl.List(pl.Float64)),
        )
        return made.cast(dict(PREDICTIONS))
