"""From predictions to the numbers of a report, as one JSON-able document.

Every scope (all, a kind, a data set, a manipulation) has the same two levels, videos and frames, side by side and named, because papers mix
them up: image benchmarks report frame AUC, most work since 2024 video AUC. What can't be computed is null, and `note` says why.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate import metrics
from d2st.adapter.evaluate.bootstrap import bootstrap_intervals
from d2st.adapter.evaluate.calibration import FITTED_ON, Temperatures, ece, reliability_bins, rescale, validation_temperatures
from d2st.adapter.evaluate.groups import by_video, check_groups, parts, per_method, with_two_kinds
from d2st.adapter.evaluate.nulls import bounds_or_null, value_or_null

__all__ = ["ESTIMATES", "summarise"]

Estimate = Callable[[metrics.Tally], metrics.Array]

PROPER: dict[str, Estimate] = {"brier": metrics.brier, "ece": ece}  # what a temperature changes
ESTIMATES: dict[str, Estimate] = {  # a dotted name is a table: "tpr_at_fpr.0.01" is level["tpr_at_fpr"]["0.01"]
    "auc": metrics.binary_auc,
    "eer": metrics.eer,
    "average_precision": metrics.average_precision,
    "accuracy": metrics.accuracy,
    "f1": metrics.f1,
    "tpr_at_fpr.0.01": partial(metrics.tpr_at_fpr, max_fpr=0.01),
    "tpr_at_fpr.0.05": partial(metrics.tpr_at_fpr, max_fpr=0.05),
    "partial_auc.0.1": partial(metrics.partial_auc, max_fpr=0.1),
    **PROPER,
}


def summarise(
    predictions: pl.DataFrame,
    *,
    clip_frames: int,
    rejected: Mapping[str, int] | None = None,
    trained_on: Collection[str] = (),
    validation: pl.DataFrame | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of `predictions` (`score.PREDICTIONS`).

    Returns:
        {"samples": {"scored", "real", "fake", "clip_frames", "padded", "trained_on", "dropped", "dropped_by_reason"},
         "overall": scope, "kinds": {kind: scope}, "datasets": {dataset: {"overall": scope, "kinds": {kind: scope}}},
         "methods": {dataset: {kind: {method: scope}}},
         "calibration": {"temperatures": {kind: T}, "fitted_on", "samples", "datasets", "reason", "bins", "bins_calibrated"}}
        with kind "image" or "video" (folders of frames are videos), and scope = {"video": level, "frame": level, "note": str or null},
        level = {"n_real", "n_fake", "auc", "eer", "average_precision", "accuracy", "f1", "tpr_at_fpr": {"0.01", "0.05"},
        "partial_auc": {"0.1"}, "brier", "ece", "calibrated": {"brier", "ece"} or null,
        "confusion": {"tn", "fp", "fn", "tp"}, "intervals": {metric: [low, high] or null}}. The video level counts groups of `video_id` (an
        image on its own is one), the frame level counts frames. The 95 % intervals of both draw whole groups; they have every metric, with
        dotted names where it lies deeper ("tpr_at_fpr.0.01", "calibrated.ece").
        In `calibration`, `reason` says why a kind has no temperature; then each "calibrated" and "bins_calibrated" with samples of this
        kind is null. The bins (`reliability_bins`) are those of all videos.

    Args:
        rejected: samples of this split that never reached the detector, reason -> count.
        trained_on: ids of samples that the detector has learnt from; of those scored, `samples.trained_on` says how many they are, and no
            temperature is fitted on them.
        validation: predictions of the val split by the same detector, from which temperatures come (`validation_temperatures`).

    Raises:
        ManifestError: a `video_id` holds real and fake samples.
        ValueError: a score is NaN, or `validation` is not the val split.
    """
    check_groups(predictions)
    temperatures = validation_temperatures(validation, predictions, trained_on=trained_on)
    table = with_two_kinds(predictions)
    cooled = rescale(table, temperatures.values)
    table = table.with_columns(calibrated=cooled["score"], calibrated_frames=cooled["frame_scores"])  # null: no temperature
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
        "calibration": _calibration(table, temperatures),
    }


def _calibration(table: pl.DataFrame, temperatures: Temperatures) -> dict[str, Any]:
    videos = by_video(table)
    labels, scaled = videos["label"].to_numpy(), videos["calibrated"].to_numpy()
    return {
        "temperatures": dict(temperatures.values),
        "fitted_on": FITTED_ON,
        "samples": temperatures.samples,
        "datasets": list(temperatures.datasets),
        "reason": temperatures.reason,
        "bins": reliability_bins(metrics.tally(labels, videos["score"].to_numpy())),
        "bins_calibrated": reliability_bins(metrics.tally(labels, scaled)) if _scaled(videos) else None,
    }


def _scaled(rows: pl.DataFrame) -> bool:
    """Whether there are rows, and a temperature for all of them."""
    return not rows.is_empty() and not rows["calibrated"].has_nulls()


def _scope(rows: pl.DataFrame, **options: Any) -> dict[str, Any]:
    videos = by_video(rows)
    lists = {"score": "frame_scores", "calibrated": "calibrated_frames"}
    frames = rows.sort("video_id", "sample_id").select("video_id", "label", **lists).explode(*lists)
    counts = [int((rows["label"] == label).sum()) for label in (0, 1)]
    note = None if all(counts) else "no samples" if not any(counts) else f"only {'fake' if counts[1] else 'real'} samples"
    if note:
        note += ": AUC, EER, average precision and TPR need both classes"
    video = _level(videos, **options)
    # images on their own: a frame is a video, and there is nothing new to count
    return {"video": video, "frame": video if frames.equals(videos) else _level(frames, **options), "note": note}


def _level(rows: pl.DataFrame, **options: int) -> dict[str, Any]:
    labels, groups = rows["label"].to_numpy(), rows["video_id"].rle_id().to_numpy()
    counts, found, intervals = _measure(labels, rows["score"].to_numpy(), groups, ESTIMATES, **options)
    made = metrics.confusion(counts)
    calibrated = None
    if _scaled(rows):
        _, calibrated, bounds = _measure(labels, rows["calibrated"].to_numpy(), groups, PROPER, **options)
        intervals |= {f"calibrated.{name}": bound for name, bound in bounds.items()}
    return {
        "n_real": int(counts.real.sum()),
        "n_fake": int(counts.fake.sum()),
        **found,
        "calibrated": calibrated,
        "confusion": {name: int(getattr(made, name)) for name in ("tn", "fp", "fn", "tp")},
        "intervals": intervals,
    }


def _measure(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, estimates: Mapping[str, Estimate], **options: int
) -> tuple[metrics.Tally, dict[str, Any], dict[str, list[float] | None]]:
    """The tally, its metrics with dotted names unfolded into tables, and their intervals by dotted name."""
    counts = metrics.tally(labels, scores)
    found: dict[str, Any] = {}
    for name, estimate in estimates.items():
        outer, _, inner = name.partition(".")
        value = estimate(counts)
        (found.setdefault(outer, {}) if inner else found)[inner or outer] = value_or_null(value)
    bounds = bootstrap_intervals(labels, scores, groups, estimates, **options)
    return counts, found, {name: bounds_or_null(bound) for name, bound in bounds.items()}
