"""Section of `d2st eval --perturb`: AUC as the pictures get worse, one chart a perturbation, all on one scale.

A mark is solid where the interval of the change leaves out 0. That says more than the two bars, which may overlap all the same: every
severity is measured on the same samples and the same resamples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from d2st.adapter.evaluate.robustness import differs, extent
from d2st.adapter.report.gather import Evaluation, Record
from d2st.adapter.report.markup import Html, bounded, details, join, note, number, table, tag
from d2st.adapter.report.svg import MARKED, Axis, Plane, figure, legend, panel_row

__all__ = ["robustness"]

KINDS = ("image", "video")
APART = 0.07  # severities between the marks of images and of videos
HEADS = ["severity", "AUC", "change", "score of reals", "of fakes"]
Step = tuple[int, str, Mapping[str, Any]]  # severity, what it stands for, kinds and data sets


def robustness(record: Record) -> Html:
    """Curves and numbers of each evaluation of the shown stage; without any, the command that makes them."""
    made = []
    for evaluation in record.shown.evaluations:
        document = evaluation.robustness
        if document and document["about"] == (evaluation.summary.get("about") or {}):
            made.append(_study(evaluation, document, several=len(record.shown.evaluations) > 1))
        elif document:
            again = tag("code", record.eval_command(record.shown, "--perturb all"))
            said = f"The robustness curves in {evaluation.name} are of another checkpoint or cache than its metrics. Make them anew: "
            made.append(note(said, again))
    return join(made) if made else note("Not measured. Run ", tag("code", record.eval_command(record.shown, "--perturb all")))


def _study(evaluation: Evaluation, document: Mapping[str, Any], *, several: bool) -> Html:
    samples, clean = document["samples"], document["clean"]
    scored = f"{samples['scored']} of {samples['available']} samples" + (f" of {evaluation.name}" if several else "")
    counts = (f"{kind}s: {level['n_real']} real, {level['n_fake']} fake" for kind, level in clean["kinds"].items())
    said = note(
        f"The cached crops of {scored} were changed, encoded again and scored ({', '.join(counts)}). Bars hold 95 % of the resamples of "
        "whole videos. A solid mark: the change from the clean pictures, measured on the same samples, leaves out 0."
    )
    low = math.floor((extent(document)[0] - 0.05) * 10) / 10  # of every chart, so that they compare
    drawn, others = [], []
    for name, entry in document["perturbations"].items():
        steps = [(0, "clean", clean), *((step["severity"], f"{step['value']:g}", step) for step in entry["severities"])]
        drawn.append(_chart(f"{evaluation.name}-{name}", name, entry, steps, low=max(0.0, low)))
        others += [
            table(f"{name}, {dataset}, {kind}s", HEADS, _rows(levels), right=range(1, 5))
            for (dataset, kind), levels in _by_dataset(steps).items()
        ]
    scales = note("Whose scale: ", "; ".join(f"{name}: {entry['scale']}" for name, entry in document["perturbations"].items()))
    by_dataset = [details("The same by data set", *others)] if len(clean["datasets"]) > 1 else []
    return join([said, panel_row(drawn, otherwise="No perturbation was tried."), scales, *by_dataset])


def _chart(ident: str, name: str, entry: Mapping[str, Any], steps: Sequence[Step], *, low: float) -> Html:
    digits = [(value / 10, f"{value / 10:.1f}") for value in range(round(low * 10), 11, 1 if low >= 0.4 else 2)]
    places = [(severity, shown) for severity, shown, _ in steps]
    plane = Plane(Axis(f"{name}: {entry['parameter']}", -0.4, len(steps) - 0.6, places), Axis("AUC by video", low, 1, digits))
    chance = plane.line(np.array([-0.4, len(steps) - 0.6]), np.array([0.5, 0.5]), "chance")
    drawn, keys, tables = [plane.grid(), chance], [], []
    for kind, (look, shape), shift in zip(KINDS, MARKED, (-APART, APART), strict=True):
        levels = [(severity, shown, step["kinds"][kind]) for severity, shown, step in steps if kind in step["kinds"]]
        if levels:
            tables.append(table(f"{name}, {kind}s", HEADS, _rows(levels), right=range(1, 5)))
        levels = [found for found in levels if found[2]["auc"] is not None]
        if not levels:
            continue
        xs, ys = (np.array(v) for v in zip(*((at + shift, level["auc"]) for at, _, level in levels), strict=True))
        drawn.append(plane.line(xs, ys, look))
        for x, (_, shown, level) in zip(xs, levels, strict=True):
            if level["interval"]:
                drawn.append(plane.line(np.array([x, x]), np.array(level["interval"]), f"bounds {look}"))
            hint = f"{kind}s, {shown}: AUC {number(level['auc'])}, change {_signed(level['auc_change'])}"
            solid = "solid" if differs(level) else "hollow"
            drawn.append(plane.mark(x, level["auc"], shape, f"{look} {solid}", hint=hint, size=5))
        keys.append((look, shape, f"{kind}s: {ys[0]:.3f} to {ys[-1]:.3f}"))
    if not keys:
        drawn.append(plane.label(0, low, "one class only: no AUC", dy=-10))
    said = f"AUC of images and of videos from the clean pictures to the worst severity of {name}, with 95 % intervals; {entry['scale']}"
    size = (plane.width, plane.height)
    return figure(
        f"robust-{ident}", f"Robustness: {name}", said, join(drawn, ""), size=size, key=legend(keys), data=join(tables)
    )


def _rows(levels: Sequence[Step]) -> Iterator[list[Html | str]]:
    for severity, shown, level in levels:
        change = [_signed(value) for value in (level["auc_change"], *(level["auc_change_interval"] or ()))]
        between = [tag("span", " to ".join(change[1:]), class_="interval")] if change[1:] else []
        yield [
            shown,
            bounded(level["auc"], level["interval"]),
            join([tag("span", change[0], class_="value"), *between], "") if severity else "–",
            *(number(level[key]) for key in ("score_real", "score_fake")),
        ]


def _by_dataset(steps: Sequence[Step]) -> dict[tuple[str, str], list[Step]]:
    found: dict[tuple[str, str], list[Step]] = {}
    for severity, shown, step in steps:
        for dataset, kinds in step["datasets"].items():
            for kind, level in kinds.items():
                found.setdefault((dataset, kind), []).append((severity, shown, level))
    return found


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
