"""The sections of a model card that come from a run's folder: data, stages, results."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.export.markdown import interval, number, table
from d2st.adapter.report.gather import BEST, Evaluation, Record, Stage

__all__ = ["data_section", "results_section", "stages_section"]

NO_RUN = "Not known: the checkpoint does not lie in the folder of its run."
METRICS = (
    ("auc", "AUC"),
    ("eer", "EER"),
    ("average_precision", "AP"),
    ("tpr_at_fpr.0.01", "TPR at 1 % FPR"),
    ("tpr_at_fpr.0.05", "TPR at 5 % FPR"),
    ("calibrated.ece", "ECE, calibrated"),
)


def data_section(record: Record | None) -> str:
    """How many samples of each set, split, kind and label each stage had."""
    if record is None:
        return NO_RUN
    parts = []
    for stage in _until(record):
        if stage.samples is None:
            parts.append(f"Stage {stage.number}: its list of samples is not there.")
            continue
        keys = ["dataset", "split", "kind"]
        counts = stage.samples.group_by(keys).agg(real=(pl.col("label") == 0).sum(), fake=(pl.col("label") == 1).sum())
        rows = counts.sort(keys).iter_rows()
        parts.append(f"Stage {stage.number}:\n\n" + table(["data set", "split", "kind", "real", "fake"], rows))
    return "\n\n".join(parts)


def stages_section(record: Record | None, meta: Mapping[str, Any]) -> str:
    """A row a stage up to this one; of a lone checkpoint what it says of itself."""
    heads = ["stage", "adapter", "started from", "best epoch", "validation", "parameters", "seconds"]
    if record is None:
        found = meta.get("val") or {}
        value = f"{meta.get('metric')} {number(found.get(meta.get('metric')))}"
        return table(heads, [[meta.get("stage"), meta["adapter"], meta.get("init"), meta.get("epoch"), value, None, None]])
    rows = []
    for stage in _until(record):
        found = stage.result or {}
        value = f"{found['metric']} {number(found.get('value'))}" if "metric" in found else "not finished"
        seconds = f"{found['seconds']:.0f}" if "seconds" in found else None
        row = (found.get("adapter"), found.get("init") or "scratch", found.get("best_epoch"), value, found.get("parameters"))
        rows.append([stage.number, *row, seconds])
    return table(heads, rows)


def results_section(record: Record | None, checkpoint: str) -> str:
    """Metrics with their intervals of every evaluation of this very checkpoint, and the AUC of each manipulation."""
    if record is None:
        return NO_RUN
    found = record.shown.evaluations
    best = record.shown.folder / BEST
    if not best.is_file() or checkpoint_digest(best) != checkpoint:
        return "None: evaluations in the run's folder are of its best checkpoint, and this is another one."
    current = [of for of in found if (of.summary.get("about") or {}).get("checkpoint") in (None, checkpoint)]
    if not current:
        stale = " The one in the run's folder is of an earlier checkpoint." if found else ""
        return f"None: it was not evaluated on a test split.{stale} `{record.eval_command(record.shown)}` does it."
    return "\n\n".join(_evaluation(of) for of in current)


def _evaluation(of: Evaluation) -> str:
    summary = of.summary
    scopes = {"all": summary["overall"], **{f"{kind}s": value for kind, value in (summary.get("kinds") or {}).items()}}
    if len(summary["datasets"]) > 1:
        scopes |= {name: value["overall"] for name, value in summary["datasets"].items()}
    rows = [[name, *_measured(value["video"])] for name, value in scopes.items() if value.get("video")]
    heads = ["of", "real + fake", *(label for _, label in METRICS)]
    samples = summary["samples"]
    words = f"`{of.name}`: {samples['scored']} files, {samples.get('dropped', 0)} dropped."
    how = "Grouped by video; in brackets 95 % of 1,000 resamples of whole videos."
    return f"{words} {how}\n\n{table(heads, rows)}\n\n{_manipulations(summary)}"


def _measured(values: Mapping[str, Any]) -> list[str]:
    intervals = values.get("intervals") or {}
    counts = f"{values['n_real']} + {values['n_fake']}"
    return [counts, *(interval(_at(values, key), intervals.get(key)) for key, _ in METRICS)]


def _at(values: Mapping[str, Any], key: str) -> float | None:
    head, _, rest = key.partition(".")
    value = values.get(head)
    return value if not rest else (value or {}).get(rest)


def _manipulations(summary: Mapping[str, Any]) -> str:
    rows = []
    for dataset, kinds in summary["methods"].items():
        for kind, methods in kinds.items():
            for name, value in methods.items():
                found = value.get("video") or {}
                auc = interval(found.get("auc"), (found.get("intervals") or {}).get("auc"))
                rows.append([dataset, kind, name, found.get("n_fake"), auc])
    return table(["data set", "kind", "manipulation", "fakes", "AUC against all reals"], rows)


def _until(record: Record) -> list[Stage]:
    return [stage for stage in record.stages if stage.number <= record.shown.number]
