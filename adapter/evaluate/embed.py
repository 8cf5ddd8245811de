"""Embeddings of cached samples, made by the very code that scores them: videos as clips of T frames, images as clips of one.

The whole point of measuring them is to compare the kinds, so each sample has one vector, whatever its kind.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from d2st.adapter.evaluate.groups import with_two_kinds
from d2st.adapter.evaluate.score import clip_outputs
from d2st.adapter.nets.detector import Detector
from d2st.cache import TokenLoader
from d2st.cache.errors import RunError

__all__ = ["Embedded", "embed_samples", "join"]


@dataclass(frozen=True)
class Embedded:
    """N samples: vectors (N, D) float64, label (N,) int64 with 1 fake, is_video (N,) bool, group (N,) the video_id.

    Folders of frames are videos.
    """

    vectors: np.ndarray
    label: np.ndarray
    is_video: np.ndarray
    group: np.ndarray


def embed_samples(
    detector: Detector, source: TokenLoader, samples: pl.DataFrame, *, clip_frames: int, batch_frames: int = 96
) -> Embedded:
    """Embeddings of `samples`, in their order; arguments as in `score_samples`, `source` streams batches as a `TokenLoader` does.

    With `clip_frames` 1 a video's embedding is the mean of its frames', as its logit is the mean of theirs.

    Raises:
        RunError: an embedding is NaN or infinite; names the sample.
    """
    vectors = np.zeros((len(samples), detector.adapter.embed_dim))  # (N, D)
    clips = np.zeros(len(samples))  # 1, or a video's frames
    for positions, _, output in clip_outputs(detector, source, samples, clip_frames=clip_frames, batch_frames=batch_frames):
        np.add.at(vectors, positions, output.embedding.double().cpu().numpy())
        np.add.at(clips, positions, 1)
    vectors /= clips[:, None]
    if (bad := np.flatnonzero(~np.isfinite(vectors).all(1))).size:
        raise RunError(
            f"the detector's embedding of {samples['sample_id'][int(bad[0])]} is NaN or infinite ({bad.size} of {len(samples)} are)",
            fix="Its weights are not usable: look at the run's losses, and train again with a lower learning rate",
        )
    return Embedded(
        vectors=vectors,
        label=samples["label"].cast(pl.Int64).to_numpy(),
        is_video=(with_two_kinds(samples)["kind"] == "video").to_numpy(),
        group=samples["video_id"].to_numpy(),
    )


def join(parts: list[Embedded]) -> Embedded:
    """All samples of `parts` (one or more, of one D), in order."""
    names = Embedded.__dataclass_fields__
    return Embedded(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
