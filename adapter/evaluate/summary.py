"""From predictions to the numbers of a report, as one JSON-able document.

Every scope (all, a kind, a data set, a manipulation) has the same two levels, videos and frames, side by side and named, because papers mix
them up: image benchmarks report frame AUC, most work since 2024 video AUC. What can't be computed is null, and `note` says why.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate import metrics
from d2st.adapter.evaluate.bootstrap import bootstrap_intervals
from d2st.adapter.evaluate.groups import by_video, check_groups, parts, per_method, with_two_kinds

__all__ = ["summarise"]

Estimate = Callable[[metrics.Tally], metrics.Array]

FALSE_POSITIVE_RATES = (0.01, 0.05)
ESTIMATES: dict[str, Estimate] = {
    "auc": metrics.binary_auc,
    "eer": metrics.eer,
    "average_precision": metrics.average_precision,
    "accuracy": metrics.accuracy,
    "f1": metrics.f1,
}


def summarise(
    predictions: pl.DataFrame,
    *,
    clip_frames: int,
    rejected: Mapping[str, int] | None = None,
    trained_on: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of `predictions` (`score.PREDICTIONS`).

    Returns:
        {"samples": {"scored", "real", "fake", "clip_frames", "padded", "trained_on", "dropped", "dropped_by_reason"},
         "overall": scope, "kinds": {kind: scope}, "datasets": {dataset: {"overall": scope, "kinds": {kind: scope}}},
         "methods": {dataset: {kind: {method: scope}}}}
        with kind "image" or "video" (folders of frames are videos), and scope = {"video": level, "frame": level, "note": str or null},
        level = {"n_real", "n_fake", "auc", "eer", "average_precision", "accuracy", "f1", "tpr_at_fpr": {"0.01", "0.05"},
        "confusion": {"tn", "fp", "fn", "tp"}, "intervals": {metric: [low, high] or null}}. The video level counts groups of `video_id` (an
        image on its own is one), the frame level counts frames. The 95 % intervals of both draw whole groups; frames have one
        for AUC alone.

    Args:
        rejected: samples of this split that never reached the detector, reason -> count.
        trained_on: ids of samples that the detector has learnt from; of those scored, `samples.trained_on` says how many they are.

    Raises:
        ManifestError: a `video_id` holds real and fake samples.
        ValueError: a score is NaN.
    """
    check_groups(predictions)
    table = with_two_kinds(predictions)
    dropped = dict(sorted((rejected or {}).items()))
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def scope(rows: pl.DataFrame) -> dict[str, Any]:
        ids = tuple(rows["sample_id"].sort())  # with one data set or one kind, several scopes are the same rows
        if ids not in known:
            known[ids] = _scope(rows, resamples=resamples, seed=seed)
        return known[ids]

    datasets, methods = {}, {}
    for name, rows in parts(table, "dataset"):
        kinds = dict(parts(rows, "kind"))
        datasets[name] = {"overall": scope(rows), "kinds": {kind: scope(part) for kind, part in kinds.items()}}
        methods[name] = {kind: {m: scope(pair) for m, pair in per_method(part)} for kind, part in kinds.items()}
    return {
        "samples": {
            "scored": len(table),
            "real": int((table["label"] == 0).sum()),
            "fake": int((table["label"] == 1).sum()),
            "clip_frames": clip_frames,
            "padded": len(table.filter((pl.col("kind") == "video") & (pl.col("frames") < clip_frames))),
            "trained_on": int(table["sample_id"].is_in(list(trained_on)).sum()),
            "dropped": sum(dropped.values()),
            "dropped_by_reason": dropped,
        },
        "overall": scope(table),
        "kinds": {kind: scope(part) for kind, part in parts(table, "kind")},
        "datasets": datasets,
        "methods": methods,
    }


def _scope(rows: pl.DataFrame, **options: int) -> dict[str, Any]:
    videos = by_video(rows)
    frames = rows.sort("video_id", "sample_id").select("video_id", "label", score="frame_scores").explode("score")
    counts = [int((rows["label"] == label).sum()) for label in (0, 1)]
    note = None if all(counts) else "no samples" if not any(counts) else f"only {'fake' if counts[1] else 'real'} samples"
    if note:
        note += ": AUC, EER, average precision and TPR need both classes"
    video = _level(videos, ESTIMATES, **options)
    # images on their own: a frame is a video, and there is nothing new to count
    frame = video if frames.equals(videos) else _level(frames, {"auc": metrics.binary_auc}, **options)
    return {"video": video, "frame": frame, "note": note}


def _level(rows: pl.DataFrame, bounded: Mapping[str, Estimate], **options: int) -> dict[str, Any]:
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    counts = metrics.tally(labels, scores)
    intervals = bootstrap_intervals(labels, scores, rows["video_id"].rle_id().to_numpy(), bounded, **options)
    made = metrics.confusion(counts)
    return {
        "n_real": int(counts.real.sum()),
        "n_fake": int(counts.fake.sum()),
        **{name: _number(estimate(counts)) for name, estimate in ESTIMATES.items()},
        "tpr_at_fpr": {f"{rate:g}": _number(metrics.tpr_at_fpr(counts, rate)) for rate in FALSE_POSITIVE_RATES},
        "confusion": {name: int(getattr(made, name)) for name in ("tn", "fp", "fn", "tp")},
        "intervals": {name: None if math.isnan(low) else [low, high] for name, (low, high) in intervals.items()},
    }


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
