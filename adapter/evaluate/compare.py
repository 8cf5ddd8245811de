"""Two or more runs on the same samples: what each measures, whether the difference could be chance, and where each was trained and tested.

Reads the predictions that `d2st eval` left, and scores nothing. Only samples that all runs have scored are compared, and how many that
leaves out of each run is told; predictions of an older checkpoint than the one that lies there are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.delong import delong_test
from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.evaluate.groups import by_video, check_groups
from d2st.adapter.evaluate.lineage import RECORD, lineage
from d2st.adapter.evaluate.matrix import Row, cross_matrices
from d2st.adapter.evaluate.nulls import bounds_or_null, value_or_null
from d2st.adapter.evaluate.paired import holm, paired_differences
from d2st.adapter.evaluate.score import PREDICTIONS
from d2st.adapter.evaluate.summary import ESTIMATES
from d2st.adapter.train.checkpoint import BEST
from d2st.cache.errors import ConfigError, ManifestError, RunError, StoreError, UnknownNameError, UsageError
from d2st.cache.store import Store

__all__ = ["Scored", "compare", "read_scored", "stage_names"]


@dataclass(frozen=True)
class Scored:
    """A run as it was evaluated. `name` as `stage_names` gives it; `trained` as in `matrix.Row`; predictions of all its evaluations of
    one split."""

    name: str
    stage: int
    adapter: str
    predictions: pl.DataFrame
    trained: frozenset[tuple[str, str]] | None


def compare(runs: Sequence[Scored], *, metric: str = "auc", resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"metric", "samples": {"common", "videos", "lost": {run: count}}, "runs": [{"run", "stage", "adapter", "value", "interval",
    "difference", "difference_interval", "delong": {"difference", "standard_error", "z", "p", "p_holm"} or null}], "datasets": matrix,
    "methods": matrix} (`cross_matrices`). Values are of videos; differences are to the first run, whose own are null; DeLong's test is of
    the AUC whatever the metric is, its p corrected by Holm's method for there being several.

    Raises:
        UsageError: fewer than two runs, or a run twice.
        ConfigError: no sample that all have scored.
        ManifestError: two runs do not agree on what a sample is, or a `video_id` holds real and fake samples.
        UnknownNameError: there is no such metric.
    """
    if metric not in ESTIMATES:
        raise UnknownNameError("metric", metric, list(ESTIMATES))
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"at least two different runs are compared, got {', '.join(names)}",
            fix="Name each run once",
        )
    tables = _common([run.predictions for run in runs], names)
    check_groups(tables[0])
    videos = [by_video(table) for table in tables]  # sorted by video_id, so rows match
    labels = videos[0]["label"].to_numpy()
    scores = np.stack([part["score"].to_numpy() for part in videos])  # (K, N)
    groups = np.arange(labels.size)
    found = paired_differences(labels, scores, groups, ESTIMATES[metric], resamples=resamples, seed=seed)
    tests = [delong_test(labels, row, scores[0]) for row in scores[1:]]
    corrected = holm([test.p for test in tests])
    rows = []
    for place, (run, made) in enumerate(zip(runs, found, strict=True)):
        row = {"run": run.name, "stage": run.stage, "adapter": run.adapter}
        row |= {"value": value_or_null(made.value), "interval": bounds_or_null(made.interval)}
        row |= {"difference": None, "difference_interval": None, "delong": None}
        if place:
            test = tests[place - 1]
            row |= {
                "difference": value_or_null(made.difference),
                "difference_interval": bounds_or_null(made.difference_interval),
            }
            row["delong"] = {name: value_or_null(getattr(test, name)) for name in ("difference", "standard_error", "z", "p")}
            row["delong"]["p_holm"] = value_or_null(corrected[place - 1])
        rows.append(row)
    lost = {run.name: len(run.predictions) - len(tables[0]) for run in runs}
    matrices = cross_matrices([Row(run.name, run.predictions, run.trained) for run in runs], resamples=resamples, seed=seed)
    return {
        "metric": metric,
        "samples": {"common": len(tables[0]), "videos": len(labels), "lost": lost},
        "runs": rows,
        **matrices,
    }


def stage_names(folders: Sequence[Path]) -> list[str]:
    """RUN/stageN of each stage's folder, and for runs of one name as much of the path before it as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = ["/".join(own[-2:]) for own in parts]
    for count in range(3, 1 + max(map(len, parts))):
        longer = [PurePath(*own[-count:]).as_posix() for own in parts]
        names = [more if names.count(name) > 1 else name for name, more in zip(names, longer, strict=True)]
    return names


def read_scored(checkpoint: Path, *, split: str, about: Mapping[str, Any], name: str | None = None) -> Scored:
    """A run's predictions in eval-SPLIT, and of samples that are not there in eval-SPLIT-* (other caches), beside its checkpoint.

    Args:
        about: the checkpoint's meta: stage and adapter.
        name: what to call it; by default RUN/stageN.

    Raises:
        RunError: there is no such evaluation, it is damaged, or it is of another checkpoint.
    """
    folder, digest = checkpoint.parent, checkpoint_digest(checkpoint)
    run = folder if checkpoint.name == BEST else checkpoint
    command = f"d2st eval {run} --split {split}"
    own = folder / f"eval-{split}"
    if not (own / "metrics.json").is_file():
        raise RunError(f"{folder} has no evaluation of the {split} split", fix=f"Run `{command}` first")
    predictions = PREDICTIONS.to_frame()
    for place in (own, *sorted(folder.glob(f"eval-{split}-*"))):
        if not (place / "metrics.json").is_file():
            continue
        try:
            said = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["about"].get("checkpoint", digest)
            made = pl.read_parquet(place / "predictions.parquet").match_to_schema(PREDICTIONS)
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            raise RunError(f"the evaluation in {place} is damaged: {error}", fix=f"Remove it and run `{command}`") from error
        if said != digest:
            raise RunError(
                f"the evaluation in {place} is of another checkpoint than {checkpoint}", fix=f"Run `{command}` again"
            )
        predictions = pl.concat([predictions, made.join(predictions, on="sample_id", how="anti")])
    (own,) = stage_names([folder])
    return Scored(name or own, about["stage"], about["adapter"], predictions, _trained(folder))


def _trained(folder: Path) -> frozenset[tuple[str, str]] | None:
    """What this stage and those that it came from were trained on, by the manifests of their stores; None where these are not all there."""
    stages, whole = lineage(folder)
    pairs: set[tuple[str, str]] = set()
    manifests: dict[Path, pl.DataFrame] = {}
    for stage in stages:
        try:
            where = (stage / json.loads((stage / "fingerprint.json").read_text(encoding="utf-8"))["cache_path"]).resolve()
            if where not in manifests:
                manifests[where] = Store.open(where).manifest()
        except (FileNotFoundError, KeyError, TypeError, StoreError):
            return None
        ids = pl.read_parquet(stage / RECORD, columns=["sample_id", "split"]).filter(pl.col("split") == "train")
        pairs |= set(manifests[where].join(ids, on="sample_id", how="semi").select("dataset", "method").unique().iter_rows())
    return frozenset(pairs) if whole else None


def _common(tables: Sequence[pl.DataFrame], names: Sequence[str]) -> list[pl.DataFrame]:
    """The rows of the samples that all have, in one order."""
    shared = tables[0].select("sample_id")
    for table in tables[1:]:
        shared = shared.join(table, on="sample_id", how="semi")
    if shared.is_empty():
        raise ConfigError(f"no sample was scored by all of {', '.join(names)}", fix="Evaluate them on the same cache and split")
    made = [table.join(shared, on="sample_id", how="semi").sort("sample_id") for table in tables]
    for name, table in zip(names[1:], made[1:], strict=True):
        for column in ("label", "video_id"):
            if other := int((table[column] != made[0][column]).sum()):
                what = f"{names[0]} and {name} do not agree on the {column} of {other} samples"
                raise ManifestError(what, fix="Evaluate both with the same --manifest")
    return made
