"""How much of a detector is left when the pictures get worse: AUC and scores at each severity, beside those of the clean pictures.

Everything is paired: the same samples at every severity, and the same bootstrap resamples of their videos. So a change of AUC has an
interval of its own, which is far narrower than the difference of two AUCs' intervals, and says whether a step of a curve means anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from d2st.adapter.evaluate.bootstrap import bootstrap_values, central
from d2st.adapter.evaluate.groups import by_video, parts, with_two_kinds
from d2st.adapter.evaluate.metrics import Array, binary_auc, tally
from d2st.adapter.evaluate.nulls import bounds_or_null, value_or_null
from d2st.cache.errors import RunError

__all__ = ["differs", "extent", "summarise_robustness"]


def summarise_robustness(
    clean: pl.DataFrame, perturbed: Mapping[str, Sequence[pl.DataFrame]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Numbers of `clean` predictions (`score.PREDICTIONS`) and of those of the same samples, perturbed: name -> one table a severity.

    Returns:
        {"clean": scopes, "perturbations": {name: [scopes, ...]}}, scopes = {"kinds": {kind: level}, "datasets": {dataset: {kind: level}}},
        where kind is "image" or "video" (folders of frames are videos), and level = {"n_real", "n_fake", "auc", "interval", "auc_change",
        "auc_change_interval", "score_real", "score_fake", "shift_real", "shift_fake"}, counted in videos (`video_id`; an image on its own
        is one). Changes and shifts are against `clean`, the scores are means. Intervals hold 95 % of the resamples. What can't be
        computed is None: AUC needs both classes, an interval two videos of each.

    Raises:
        RunError: a table has other samples than `clean`.
    """
    baseline = _scopes(clean)
    drawn = {key: _resampled(rows, resamples=resamples, seed=seed) for key, rows in baseline.items()}

    def summary(predictions: pl.DataFrame) -> dict[str, Any]:
        found: dict[str, Any] = {"kinds": {}, "datasets": {}}
        for key, rows in _scopes(predictions).items():
            dataset, kind = key
            home = found["kinds"] if dataset is None else found["datasets"].setdefault(dataset, {})
            aucs = drawn[key] if rows is baseline[key] else _resampled(rows, resamples=resamples, seed=seed)
            home[kind] = _level(rows, baseline[key], aucs, drawn[key])
        return found

    for name, tables in perturbed.items():
        for table in tables:
            if not table["sample_id"].sort().equals(clean["sample_id"].sort()):
                raise RunError(f"the scores of {name} are of other samples than the clean ones", fix="Score the same samples")
    return {
        "clean": summary(clean),
        "perturbations": {name: [summary(table) for table in perturbed[name]] for name in perturbed},
    }


def differs(level: Mapping[str, Any]) -> bool:
    """Whether the interval of a level's change leaves out 0."""
    low, high = level["auc_change_interval"] or (0.0, 0.0)
    return low > 0 or high < 0


def extent(document: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the greatest of all AUCs of kinds, their bounds, and chance, in `document` as robustness.json holds it."""
    steps = [document["clean"], *(step for entry in document["perturbations"].values() for step in entry["severities"])]
    levels = [level for step in steps for level in step["kinds"].values()]
    seen = [0.5, *(bound for level in levels for bound in (level["auc"], *(level["interval"] or ())) if bound is not None)]
    return min(seen), max(seen)


def _scopes(predictions: pl.DataFrame) -> dict[tuple[str | None, str], pl.DataFrame]:
    """Videos, as `by_video` gives them, of each kind over all data sets (None) and within each."""
    table = with_two_kinds(predictions)
    found: dict[tuple[str | None, str], pl.DataFrame] = {(None, kind): by_video(rows) for kind, rows in parts(table, "kind")}
    for dataset, rows in parts(table, "dataset"):
        found |= {(dataset, kind): by_video(part) for kind, part in parts(rows, "kind")}
    return found


def _resampled(videos: pl.DataFrame, *, resamples: int, seed: int) -> Array:
    """AUC of each bootstrap resample (R,)."""
    columns = (videos[name].to_numpy() for name in ("label", "score", "video_id"))
    return bootstrap_values(*columns, {"auc": binary_auc}, resamples=resamples, seed=seed)["auc"]


def _level(rows: pl.DataFrame, clean: pl.DataFrame, aucs: Array, clean_aucs: Array) -> dict[str, Any]:
    labels, scores, before = (values.to_numpy() for values in (rows["label"], rows["score"], clean["score"]))
    auc = float(binary_auc(tally(labels, scores)))
    found: dict[str, Any] = {"n_real": int((labels == 0).sum()), "n_fake": int((labels == 1).sum())}
    found["auc"], found["interval"] = value_or_null(auc), bounds_or_null(central(aucs))
    found["auc_change"] = value_or_null(auc - float(binary_auc(tally(labels, before))))
    found["auc_change_interval"] = bounds_or_null(central(aucs - clean_aucs))
    for name, label in (("real", 0), ("fake", 1)):
        mine = labels == label
        found[f"score_{name}"] = float(scores[mine].mean()) if mine.any() else None
        found[f"shift_{name}"] = float((scores - before)[mine].mean()) if mine.any() else None
    return found
