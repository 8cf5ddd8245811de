"""The one number that a checkpoint is chosen by, measured with the very scoring code of `d2st eval`."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from torch import nn

from d2st.adapter.evaluate.groups import by_video, with_two_kinds
from d2st.adapter.evaluate.metrics import binary_auc, tally
from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.train.exchange import alike, everyone
from d2st.adapter.train.ranks import Ranks

__all__ = ["SCORED", "Validated", "choose_metric", "summarise", "validate"]

SCORED = ("sample_id", "video_id", "kind", "label", "logit", "score")


class Validated(NamedTuple):
    """`scores`: what a checkpoint is chosen by. `predictions`: what they rest on, one row a sample, columns `SCORED`; on all ranks."""

    scores: dict[str, float | None]
    predictions: pl.DataFrame


def choose_metric(val: pl.DataFrame) -> str:
    """The key of `validate` to choose by: "video_auc" if the videos have both labels, else "image_auc" if the images have, else "auc"."""
    table = with_two_kinds(val)
    for kind in ("video", "image"):
        if table.filter(pl.col("kind") == kind)["label"].n_unique() == 2:
            return f"{kind}_auc"
    return "auc"


def validate(
    detector: nn.Module,
    source: Any,
    val: pl.DataFrame,
    *,
    clip_frames: int,
    ranks: Ranks = Ranks(),  # noqa: B008, frozen
) -> Validated:
    """Score the validation split, each of the ranks its part of it.

    Returns:
        As `scores` video_auc (grouped by video_id), image_auc, auc over all groups, each null where a class is missing; and loss, the mean
        binary cross-entropy of the samples, which breaks ties between epochs of equal AUC.
    """
    with alike(ranks):
        own = val.gather_every(ranks.size, ranks.rank)  # every R-th: kinds and lengths are spread evenly
        scored = score_samples(detector, source, own, clip_frames=clip_frames).select(SCORED)
    return summarise(pl.concat(everyone(ranks, scored)).sort("sample_id"))


def summarise(scored: pl.DataFrame) -> Validated:
    """What `validate` returns, of predictions with the columns `SCORED`, sorted by sample_id."""
    predictions = with_two_kinds(scored)
    scopes = {f"{kind}_auc": predictions.filter(pl.col("kind") == kind) for kind in ("video", "image")} | {"auc": predictions}
    logit, label = predictions["logit"].to_numpy(), predictions["label"].to_numpy()
    # -log sigmoid(z) for fakes, -log sigmoid(-z) for reals
    loss = np.logaddexp(0, np.where(label == 1, -logit, logit)).mean()
    return Validated({name: _auc(part) for name, part in scopes.items()} | {"loss": float(loss)}, predictions)


def _auc(predictions: pl.DataFrame) -> float | None:
    groups = by_video(predictions)
    value = float(binary_auc(tally(groups["label"].to_numpy(), groups["score"].to_numpy())))
    return None if np.isnan(value) else value
