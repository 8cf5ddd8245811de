"""What `d2st eval` prints of a summary: the headline, each manipulation, calibration, other protocols, and what was left out."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from d2st.cli.show import table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["bounded", "number", "summary_tables"]


def summary_tables(summary: dict[str, Any]) -> Iterator["Table"]:
    """What `d2st eval` prints: scores per data set and kind, per manipulation, and what was not or not fully scored."""
    datasets = summary["datasets"]
    scopes = [(name, kind, scope) for name, found in datasets.items() for kind, scope in found["kinds"].items()]
    if len(datasets) > 1:
        scopes += [("all", kind, scope) for kind, scope in summary["kinds"].items()]
    rates = {"auc": "AUC", "eer": "EER", "average_precision": "AP"}
    rates |= {"tpr_at_fpr.0.01": "TPR@1 % FPR", "tpr_at_fpr.0.05": "TPR@5 %"}
    columns = ["data set", "kind", "real", "fake", *rates.values(), "ECE", "frame AUC"]
    rows = [
        [
            name,
            kind,
            *_counts(scope),
            *_rates(scope["video"], rates),
            _calibrated(scope["video"]),
            number(scope["frame"]["auc"]),
        ]
        for name, kind, scope in scopes
    ]
    yield table(f"Scores on the {summary['split']} split, by video_id (95 % interval)", columns, rows, right=columns[2:])

    columns = ["data set", "kind", "manipulation", "real", "fake", "AUC", "frame AUC", "EER", "AP"]
    rows = [
        [name, kind, method, *_counts(scope), with_interval(scope["video"], "auc"), number(scope["frame"]["auc"])]
        + [number(scope["video"][key]) for key in ("eer", "average_precision")]
        for name, kinds in summary["methods"].items()
        for kind, methods in kinds.items()
        for method, scope in methods.items()
    ]
    yield table("Per manipulation, each against the reals of its data set and kind", columns, rows, right=columns[3:])

    for name, protocol in summary.get("protocols", {}).items():
        columns = ["data set", "measure", name, "ours", "why they differ"]
        rows = [
            [dataset, made["measure"], number(made[name]), number(made["ours"]), made["why"]]
            for dataset, found in protocol["datasets"].items()
            for made in found["rows"]
        ]
        yield table(f"As {name} measures", columns, rows, right=columns[2:4])

    samples = summary["samples"]
    rows = [["scored", samples["scored"]], [f"of these padded: fewer than {samples['clip_frames']} frames", samples["padded"]]]
    if samples["trained_on"]:
        rows.append(["of these seen in training: the scores are too good", samples["trained_on"]])
    rows += [[f"left out: {reason}", count] for reason, count in samples["dropped_by_reason"].items()] or [["left out", 0]]
    calibration = summary["calibration"]
    fitted = f"by kind on {calibration['samples']} {calibration['fitted_on']} samples of {', '.join(calibration['datasets'])}"
    rows += [[f"temperature of {kind}s, fitted {fitted}", number(value)] for kind, value in calibration["temperatures"].items()]
    yield table("Samples and temperature", ["", "value"], rows, right=["value"])

    notes = [[f"{name} {kind}", scope["note"]] for name, kind, scope in scopes if scope["note"]]
    notes += [["temperature", calibration["reason"]]] if calibration["reason"] else []
    if notes:
        yield table("Not computed", ["where", "why"], notes)


def _counts(scope: dict[str, Any]) -> list[int]:
    return [scope["video"]["n_real"], scope["video"]["n_fake"]]


def _rates(level: dict[str, Any], names: Iterable[str]) -> list[str]:
    return [with_interval(level, name) for name in names]


def _calibrated(level: dict[str, Any]) -> str:
    """ECE as scored → with the temperature."""
    return f"{number(level['ece'])}→{number(level['calibrated']['ece'])}" if level["calibrated"] else number(level["ece"])


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def with_interval(level: dict[str, Any], key: str) -> str:
    """A metric by its dotted name, with its interval where it has one."""
    outer, _, inner = key.partition(".")
    value = level[outer][inner] if inner else level[outer]
    return bounded(value, level["intervals"].get(key))


def bounded(value: float | None, interval: list[float] | None) -> str:
    """0.834 .768 - .893"""
    if interval is None:
        return number(value)
    # the spaces are where a narrow terminal may break the line
    low, high = (f"{bound:.3f}".replace("0.", ".", 1) for bound in interval)
    return f"{number(value)} {low} - {high}"
