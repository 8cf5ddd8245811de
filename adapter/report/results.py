"""Sections of one evaluation: headline, curves, scores, calibration, confusion, manipulations.

Numbers come from metrics.json and are never computed a second time, so the page can't disagree with the file; only curves and bins, which
the file does not hold, come from the predictions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from d2st.adapter.evaluate.calibration import reliability_bins
from d2st.adapter.evaluate.groups import by_video, with_two_kinds
from d2st.adapter.evaluate.metrics import THRESHOLD, tally
from d2st.adapter.report import charts
from d2st.adapter.report.gather import Evaluation, Stage
from d2st.adapter.report.markup import Html, bounded, details, join, note, table, tag
from d2st.adapter.report.series import interval_bars
from d2st.adapter.report.svg import panel_row

__all__ = ["calibration", "confusion", "curves", "headline", "manipulations", "scores"]

COLUMNS = {  # dotted name in metrics.json -> heading
    "auc": "AUC",
    "eer": "EER",
    "average_precision": "AP",
    "accuracy": "accuracy",
    "f1": "F1",
    "tpr_at_fpr.0.01": "TPR at 1 % FPR",
    "tpr_at_fpr.0.05": "TPR at 5 % FPR",
    "partial_auc.0.1": "partial AUC, FPR ≤ 10 %",
    "brier": "Brier",
    "ece": "ECE",
}
ONE_CLASS = "There is no curve: it needs reals and fakes of one kind."


def headline(stage: Stage) -> Html:
    """Every metric with its interval, at video and at frame level, of each evaluation of the stage."""
    names = [name for name in COLUMNS if any(_read(e.summary["overall"]["video"], name)[0] for e in stage.evaluations)]
    made = []
    for level, words in (("video", "By video_id"), ("frame", "By frame")):
        rows, notes = [], []
        for evaluation in stage.evaluations:
            for name, kind, scope in _scopes(evaluation.summary):
                values = scope[level]
                found = (_read(values, column)[1:] for column in names)
                rows.append([name, kind, values["n_real"], values["n_fake"], *(bounded(*pair) for pair in found)])
                notes += [note(f"{name}, {kind}: {scope['note']}.")] if scope.get("note") else []
        caption = f"{words}, with 95 % intervals"
        columns = ["data set", "kind", "real", "fake", *(COLUMNS[name] for name in names)]
        shown = table(caption, columns, rows, right=range(2, len(columns)))
        made += [shown, *notes] if level == "video" else [details("The same by frame", shown)]
    made.append(
        note(
            "Intervals hold 95 % of the bootstrap resamples of whole videos. "
            f"Accuracy and F1 are at the threshold {THRESHOLD}. Of EER, Brier and ECE, lower is better."
        )
    )
    return join(made)


def curves(evaluation: Evaluation) -> Html:
    found = panel_row(charts.roc_curves(evaluation.predictions), otherwise=ONE_CLASS)
    said = note(
        "The dotted line is chance. Beside all fakes, the hardest manipulations are drawn, each against all reals of its kind."
    )
    det = charts.det_curves(evaluation.predictions)
    return join([said, found, panel_row(det, otherwise="")] if det else [found])


def scores(evaluation: Evaluation) -> Html:
    return panel_row(charts.histograms(evaluation.predictions), otherwise="No sample was scored.")


def calibration(evaluation: Evaluation) -> Html:
    """Reliability diagram; ECE and Brier before and after temperature scaling where the evaluation has them."""
    kept = evaluation.summary.get("calibration") or {}
    made = []
    bins = {"as scored": kept["bins"]} if kept.get("bins") else {}
    if not bins:
        videos = by_video(with_two_kinds(evaluation.predictions))
        bins["as scored"] = reliability_bins(tally(videos["label"].to_numpy(), videos["score"].to_numpy()))
        made.append(note("This evaluation is from before calibration was measured; the bins come from its predictions."))
    divisors = ", ".join(f"{value:.3g} ({kind}s)" for kind, value in kept.get("temperatures", {}).items())
    if divisors and kept.get("bins_calibrated"):
        bins[f"temperature {divisors}"] = kept["bins_calibrated"]
    made.append(panel_row([charts.reliability(bins)], otherwise=""))
    level = evaluation.summary["overall"]["video"]
    if "ece" in level:
        between = level.get("intervals") or {}
        rows = [["as scored", *(bounded(level.get(name), between.get(name)) for name in ("ece", "brier"))]]
        if divisors and (after := level.get("calibrated")):
            pairs = ((after.get(name), between.get(f"calibrated.{name}")) for name in ("ece", "brier"))
            rows.append([f"divided by temperature {divisors}, fitted on {kept['fitted_on']}", *(bounded(*p) for p in pairs)])
        made.append(table("Calibration of all videos; lower is better", ["scores", "ECE", "Brier"], rows, right=(1, 2)))
    if kept.get("reason"):
        made.append(note(f"No temperature: {kept['reason']}."))
    return join(made)


def confusion(evaluation: Evaluation) -> Html:
    """Counts at the threshold, by kind, with their share of the row."""
    made = []
    for name, kind, scope in _scopes(evaluation.summary):
        counts = scope["video"]["confusion"]
        rows = []
        for truth, keys in (("real", ("tn", "fp")), ("fake", ("fn", "tp"))):
            total = sum(counts[key] for key in keys)
            rows.append([f"is {truth}", *(_share(counts[key], total, wrong=key in ("fp", "fn")) for key in keys)])
        made.append(table(f"{name}, {kind}", ["", "called real", "called fake"], rows, right=(1, 2)))
    said = note(f"By video_id. Fake is what scores above {THRESHOLD}; a framed number counts mistakes.")
    return join([said, panel_row(made, otherwise="No sample was scored.")])


def manipulations(evaluation: Evaluation) -> Html:
    """AUC of each manipulation against the reals of its data set and kind."""
    made = []
    for dataset, kinds in evaluation.summary["methods"].items():
        for kind, methods in kinds.items():
            levels = sorted(((name, scope["video"]) for name, scope in methods.items()), key=lambda pair: pair[1]["auc"] or 0)
            bars = [(n, v["auc"], v["intervals"].get("auc"), f"{v['n_fake']} fake, {v['n_real']} real") for n, v in levels]
            if bars:
                made.append(interval_bars(f"bars-{len(made)}", f"AUC by manipulation: {dataset}, {kind}s", bars))
    return panel_row(made, otherwise="No fake was scored.")


def _scopes(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(data set, kind, scope), and at the end all of them where there is more than one."""
    several = len(summary["datasets"]) > 1
    for name, found in summary["datasets"].items():
        yield from ((name, kind, scope) for kind, scope in found["kinds"].items())
        if not several and len(found["kinds"]) > 1:
            yield name, "both", found["overall"]
    if several:
        yield from (("all", kind, scope) for kind, scope in summary["kinds"].items())
        yield "all", "both", summary["overall"]


def _read(level: Mapping[str, Any], name: str) -> tuple[bool, float | None, Any]:
    """Whether the level has this metric at all, its value, its interval."""
    outer, _, inner = name.partition(".")
    there = outer in level and (not inner or inner in (level[outer] or {}))
    value = (level[outer][inner] if inner else level[outer]) if there else None
    return there, value, (level.get("intervals") or {}).get(name)


def _share(count: int, total: int, *, wrong: bool) -> Html:
    share = f"{count / total:.1%}" if total else "–"
    value = tag("span", count, class_="value wrong" if wrong and count else "value")
    return join([value, tag("span", share, class_="interval")], "")
