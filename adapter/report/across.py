"""Sections that set things against each other: stages and data sets, images and videos, our protocol and others'."""

from collections.abc import Mapping
from typing import Any

from d2st.adapter.report.gather import Evaluation, Record, Stage
from d2st.adapter.report.markup import Html, bounded, join, note, number, table, tag
from d2st.adapter.report.sources import Sources

__all__ = ["gap", "matrices", "protocols"]

GAP = {  # key of result.json -> what it is, what would be no gap
    "centroid_real": ("distance of real images and real videos, in spreads", "0"),
    "centroid_fake": ("distance of fake images and fake videos, in spreads", "0"),
    "probe_accuracy": ("accuracy of a probe that tells images from videos", "0.5"),
    "transfer_image_to_video": ("AUC on videos of a head trained on images", "1"),
    "transfer_video_to_image": ("AUC on images of a head trained on videos", "1"),
}
Column = tuple[str, str, str | None]  # data set, kind, manipulation


def matrices(record: Record, sources: Sources) -> Html:
    """Stages against what they were tested on, by data set and by manipulation: AUC of videos from each stage's own metrics.json."""
    tested = [stage for stage in record.stages if stage.evaluations]
    made = [
        note(
            "AUC of videos, its 95 % interval, how many were tested, and whether that stage or one before it was trained on the like."
        )
    ]
    for title, read in (("By data set", _datasets), ("By manipulation", _methods)):
        cells = [_all(stage, read) for stage in tested]
        columns = sorted({key for row in cells for key in row}, key=lambda key: tuple(part or "" for part in key))
        rows = []
        for stage, row in zip(tested, cells, strict=True):
            trained = sources.trained_on(stage)
            rows.append([f"stage {stage.number}", *(_cell(row.get(key), key, trained) for key in columns)])
        several = len({dataset for dataset, _, _ in columns}) > 1
        heads = [" ".join(filter(None, (d if several or not m else "", m, f"({k}s)"))) for d, k, m in columns]
        made.append(table(f"{title}: stage × what it was tested on", ["", *heads], rows, class_="matrix"))
    if untested := [stage for stage in record.stages if not stage.evaluations]:
        commands = "; ".join(map(record.eval_command, untested))
        names = ", ".join(str(stage.number) for stage in untested)
        made.append(note(f"Not evaluated on this split: stage {names}. ", tag("code", commands)))
    return join(made)


def gap(record: Record) -> Html | None:
    """The modality gap before and after the stage that has one, or None."""
    found = [(stage, stage.result["gap"]) for stage in record.stages if stage.result and stage.result.get("gap")]
    made = []
    for stage, values in found:
        before, after = ((values.get(when) or {}) for when in ("before", "after"))
        rows = [
            [said, number(before.get(key)), number(after.get(key)), none, _course(before.get(key), after.get(key), float(none))]
            for key, (said, none) in GAP.items()
        ]
        columns = ["on the validation split", "before", "after", "no gap", ""]
        made.append(table(f"Modality gap of stage {stage.number}", columns, rows, right=(1, 2, 3), class_="words"))
    return join(made) if made else None


def protocols(evaluation: Evaluation) -> Html | None:
    """Other benchmarks' protocols beside ours, with what makes them differ, or None."""
    made = []
    for name, found in (evaluation.summary.get("protocols") or {}).items():
        for dataset, values in found["datasets"].items():
            rows = [[row["measure"], number(row.get(name)), number(row["ours"]), row["why"]] for row in values["rows"]]
            made.append(table(f"{dataset}: {name} and ours", ["measure", name, "ours", "why they differ"], rows, right=(1, 2)))
    return join(made) if made else None


def _all(stage: Stage, read: Any) -> dict[Column, Mapping[str, Any]]:
    """All columns of a stage; where two evaluations have one, that of the training cache counts."""
    found: dict[Column, Mapping[str, Any]] = {}
    for evaluation in stage.evaluations:
        for key, level in read(evaluation.summary).items():
            found.setdefault(key, level)
    return found


def _datasets(summary: Mapping[str, Any]) -> dict[Column, Mapping[str, Any]]:
    found = summary["datasets"].items()
    return {(name, kind, None): scope["video"] for name, kinds in found for kind, scope in kinds["kinds"].items()}


def _methods(summary: Mapping[str, Any]) -> dict[Column, Mapping[str, Any]]:
    found = [(name, kind, methods) for name, kinds in summary["methods"].items() for kind, methods in kinds.items()]
    return {(name, kind, method): scope["video"] for name, kind, methods in found for method, scope in methods.items()}


def _cell(level: Mapping[str, Any] | None, key: Column, trained: frozenset[tuple[str, str]] | None) -> Html:
    """Value, interval, counts, seen or unseen; a bar behind it is as long as AUC is above chance."""
    if level is None:
        return tag("div", "–", class_="cell", style="--share:0")
    dataset, _, method = key
    seen = None if trained is None else (dataset, method) in trained if method else dataset in {name for name, _ in trained}
    words = [f"{level['n_fake']} fake, {level['n_real']} real", *([] if seen is None else ["seen" if seen else "unseen"])]
    share = max(0.0, ((level["auc"] or 0.5) - 0.5) * 2)
    inside = [bounded(level["auc"], level["intervals"].get("auc")), tag("span", ", ".join(words), class_="interval")]
    return tag("div", *inside, class_="cell", style=f"--share:{share:.3f}")


def _course(before: float | None, after: float | None, none: float) -> str:
    if before is None or after is None:
        return ""
    return (
        "narrower"
        if abs(after - none) < abs(before - none)
        else "wider"
        if abs(after - none) > abs(before - none)
        else "as before"
    )
