"""Other people's protocols: the numbers as DeepfakeBench computes them, beside ours, with what makes them differ.

DeepfakeBench (Yan et al., NeurIPS 2023 Datasets and Benchmarks; `get_test_metrics` and its data sets' clip building). A model of single
frames (`clip_frames` 1) is measured on frames, and its "video AUC" on the mean over all frames whose parent folder has one name; the label
of such a group is int(mean), so one real frame makes it real. A model of clips is measured on clips, and its "video AUC" is the AUC of
clips; a video with fewer frames than a clip is dropped. Its code rests on scikit-learn, whose rules are followed to the last point.

The decision that shaped it: only the protocol differs. Both columns come from the same scores of the same cached frames, one clip a video;
the benchmark itself takes 32 frames a video, cuts them into as many clips as fit, and so has other scores too.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate import metrics
from d2st.adapter.evaluate.groups import parts, with_two_kinds
from d2st.adapter.evaluate.nulls import value_or_null

__all__ = ["PROTOCOLS", "deepfakebench", "folder_name", "nearest_eer"]

Protocol = Callable[..., dict[str, Any]]

NAMES = {"auc": "AUC", "eer": "EER", "average_precision": "AP", "accuracy": "accuracy"}
ALIKE = {"auc": metrics.binary_auc, "average_precision": metrics.average_precision, "accuracy": metrics.accuracy}


def deepfakebench(
    predictions: pl.DataFrame, paths: pl.DataFrame, *, clip_frames: int, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Per data set: {"model": "frame" or "clip", "n", "auc", "eer", "average_precision", "accuracy", "video_auc", "groups",
    "mixed_groups", "fakes_called_real", "dropped_videos", "dropped_images", "rows"}; `rows` sets both protocols side by side:
    [{"measure", "deepfakebench", "ours", "why"}], with None for what can't be computed.

    Args:
        predictions: `score.PREDICTIONS`.
        paths: sample_id and path (POSIX) of each of them.
        clip_frames: T of the detector's clip.
        summary: what `summarise` says of the same predictions: ours.
    """
    named = paths.with_columns(pl.col("path").str.replace_all("\\", "/", literal=True))
    table = with_two_kinds(predictions.join(named, on="sample_id", how="left", validate="1:1"))
    folders = [folder_name(kind, path) for kind, path in table.select("kind", "path").iter_rows()]
    table = table.with_columns(folder=pl.Series(folders, dtype=pl.String))
    build = _clips if clip_frames > 1 else _frames
    datasets = {}
    for name, rows in parts(table, "dataset"):
        made = build(rows, clip_frames)
        ours = summary["datasets"][name]["overall"]
        datasets[name] = made | {"rows": list(_beside(made, ours, videos=rows["video_id"].n_unique(), clip_frames=clip_frames))}
    return {"datasets": datasets}


def folder_name(kind: str, path: str) -> str:
    """The name of the folder in which the benchmark has the frames of a sample: its "video"."""
    where = PurePosixPath(path)
    return where.parent.name if kind == "image" else where.name if kind == "frames" else where.stem


def nearest_eer(labels: np.ndarray, scores: np.ndarray) -> float:
    """FPR at the point of the ROC curve where |FNR - FPR| is smallest, the first of several: no interpolation. nan for one class.

    scikit-learn's curve leaves out points that lie midway on a straight line, and so does this one.
    """
    counts = metrics.tally(labels, scores)
    fpr, tpr = metrics.roc_curve(counts)
    if np.isnan(fpr[-1]) or np.isnan(tpr[-1]):
        return float("nan")
    fp, tp = np.cumsum(counts.real[::-1]), np.cumsum(counts.fake[::-1])  # (U,) whole numbers
    corners = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)  # (U - 2,)
    kept = np.r_[True, True, corners, True] if fp.size > 2 else np.ones(fpr.size, bool)  # (U + 1,), (0, 0) leading
    fpr, fnr = fpr[kept], 1 - tpr[kept]
    return float(fpr[np.argmin(np.abs(fnr - fpr))])


def _frames(rows: pl.DataFrame, clip_frames: int) -> dict[str, Any]:
    frames = rows.select("folder", "video_id", "label", score="frame_scores").explode("score")
    grouped = frames.group_by("folder", maintain_order=True).agg(
        pl.col("score").mean(), pl.col("label").cast(pl.Float64).mean().floor().cast(pl.Int8), fakes=pl.col("label").sum()
    )
    mixed = grouped.filter((pl.col("label") == 0) & (pl.col("fakes") > 0))
    return {
        "model": "frame",
        **_measured(frames),
        "video_auc": value_or_null(_auc(grouped)),
        "groups": len(grouped),
        "mixed_groups": len(mixed),
        "fakes_called_real": int(mixed["fakes"].sum()),
        "dropped_videos": 0,
        "dropped_images": 0,
    }


def _clips(rows: pl.DataFrame, clip_frames: int) -> dict[str, Any]:
    whole = pl.col("frames") >= clip_frames
    clips = rows.filter((pl.col("kind") == "video") & whole)
    made = _measured(clips)
    return {
        "model": "clip",
        **made,
        "video_auc": made["auc"],
        "groups": None,  # nothing is grouped
        "mixed_groups": None,
        "fakes_called_real": None,
        "dropped_videos": len(rows.filter((pl.col("kind") == "video") & ~whole)),
        "dropped_images": len(rows.filter(pl.col("kind") == "image")),
    }


def _measured(rows: pl.DataFrame) -> dict[str, Any]:
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    counts = metrics.tally(labels, scores)
    found = {name: float(estimate(counts)) for name, estimate in ALIKE.items()} | {"eer": nearest_eer(labels, scores)}
    return {"n": len(rows)} | {name: value_or_null(found[name]) for name in NAMES}


def _auc(rows: pl.DataFrame) -> float:
    return float(metrics.binary_auc(metrics.tally(rows["label"].to_numpy(), rows["score"].to_numpy())))


def _beside(made: Mapping[str, Any], ours: Mapping[str, Any], *, videos: int, clip_frames: int) -> Iterator[dict[str, Any]]:
    """One row a measure: theirs, ours, and why they differ or what is the same."""
    clip = made["model"] == "clip"
    level = ours["video" if clip else "frame"]
    unit = f"{made['n']} clips of {videos} videos and images" if clip else f"the same {made['n']} frames"
    if made["dropped_videos"]:
        unit += f"; {made['dropped_videos']} videos with fewer than {clip_frames} frames dropped, ours pads them"
    if made["dropped_images"]:
        unit += f"; {made['dropped_images']} images dropped, which are no clips"
    for name, shown in NAMES.items():
        why = {"auc": unit, "eer": "as for the AUC, and the point of the curve nearest to equality, ours between points"}.get(
            name, "as for the AUC"
        )
        yield {"measure": f"{made['model']} {shown}", "deepfakebench": made[name], "ours": level[name], "why": why}
    if clip:
        why = "the AUC of clips once more: nothing is grouped by video"
    else:
        why = f"{made['groups']} folder names for {videos} videos; mean of frame scores, ours of frame logits"
        if made["mixed_groups"]:
            lost = f"{made['mixed_groups']} folder names hold real and fake and count as real"
            lost += f", {made['fakes_called_real']} fake frames with them"
            why = f"{lost}; {why}"
    yield {"measure": "video AUC", "deepfakebench": made["video_auc"], "ours": ours["video"]["auc"], "why": why}


PROTOCOLS: dict[str, Protocol] = {"deepfakebench": deepfakebench}
