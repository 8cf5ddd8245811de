"""Charts of numbers that are known already: bars with intervals, and the course of training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from d2st.adapter.report.gather import Stage
from d2st.adapter.report.markup import Html, join, number, table, tag
from d2st.adapter.report.svg import MARKED, Axis, Plane, figure, legend, steps

__all__ = ["interval_bars", "training_curves"]

ROW, WIDTH = 40, 420
Bar = tuple[str, float | None, Sequence[float] | None, str]  # name, value, interval, what it counts
Line = tuple[str, Callable[[Mapping[str, Any]], float | None]]

LOSSES: list[Line] = [("training", lambda epoch: epoch.get("loss")), ("validation", lambda epoch: _val(epoch, "loss"))]
AREAS: list[Line] = [("videos", lambda epoch: _val(epoch, "video_auc")), ("images", lambda epoch: _val(epoch, "image_auc"))]


def interval_bars(name: str, title: str, bars: Sequence[Bar]) -> Html:
    """AUC, 0 to 1, a bar each with its interval as a whisker, name and numbers above it; chance is marked."""
    height = ROW * len(bars) + 34
    left, right = 8, WIDTH - 8

    def x(value: float) -> float:
        return left + (right - left) * value

    drawn = [tag("line", x1=f"{x(0.5):.1f}", x2=f"{x(0.5):.1f}", y1=4, y2=height - 28, class_="rule threshold")]
    drawn.append(tag("text", "chance", x=f"{x(0.5):.1f}", y=height - 14, class_="tick mid"))
    drawn += [
        tag("text", f"{v:.0f}", x=f"{x(v):.1f}", y=height - 14, class_=f"tick {look}") for v, look in ((0, ""), (1, "end"))
    ]
    for place, (label, value, interval, counted) in enumerate(bars):
        top = 4 + ROW * place
        drawn.append(tag("text", label, x=left, y=top + 12, class_="strong"))
        between = f" ({number(interval[0], 2)}–{number(interval[1], 2)})" if interval else ""
        drawn.append(tag("text", f"{number(value)}{between}", x=right, y=top + 12, class_="end"))
        if value is not None:
            hint = tag("title", f"{label}: AUC {number(value)}{between}, {counted}")
            drawn.append(tag("rect", hint, x=left, y=top + 18, width=f"{x(value) - left:.1f}", height=12, class_="bar real"))
        if interval:
            low, high, y = x(interval[0]), x(interval[1]), top + 24
            path = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}v10M{high:.1f} {y - 5}v10"
            drawn.append(tag("path", d=path, class_="whisker"))
    rows = [
        [label, number(value), *(number(b) for b in interval or (None, None)), counted]
        for label, value, interval, counted in bars
    ]
    data = table(title, ["manipulation", "AUC", "from", "to", "videos"], rows, right=(1, 2, 3))
    said = f"AUC of {len(bars)} manipulations, lowest first, with 95 % intervals"
    return figure(name, title, said, join(drawn, ""), size=(WIDTH, height), data=data)


def training_curves(stages: Sequence[Stage]) -> list[Html]:
    """Loss and validation AUC over the epochs of all stages, one after another."""
    stages = [stage for stage in stages if stage.epochs]
    if not stages:
        return []
    losses = [v for stage in stages for epoch in stage.epochs for _, read in LOSSES if (v := read(epoch)) is not None]
    top = max(losses, default=1.0) * 1.05 or 1.0
    tenths = [(v / 5, f"{v / 5:.1f}") for v in range(6)]
    return [
        _course("loss", "Loss", Axis("loss", 0, top, steps(top)), LOSSES, stages),
        _course("val-auc", "AUC on the validation split", Axis("AUC", 0, 1, tenths), AREAS, stages),
    ]


def _course(name: str, title: str, y: Axis, lines: Sequence[Line], stages: Sequence[Stage]) -> Html:
    total = sum(len(stage.epochs) for stage in stages)
    step = max(1, round(total / 8))
    plane = Plane(
        Axis("epoch, all stages", 0.5, total + 0.5, [(v, str(v)) for v in range(step, total + 1, step)]), y, width=440
    )
    drawn, rows, before = [plane.grid()], [], 0
    for stage in stages:
        epochs = [before + 1 + place for place in range(len(stage.epochs))]
        drawn.append(plane.line(np.array([before + 0.5] * 2), np.array([y.low, y.high]), "chance"))
        drawn.append(plane.label(before + 0.5, y.high, f"stage {stage.number}", dx=5, dy=14, look="strong"))
        for (_, read), (look, _) in zip(lines, MARKED, strict=True):
            found = [(x, value) for x, epoch in zip(epochs, stage.epochs, strict=True) if (value := read(epoch)) is not None]
            if found:
                drawn.append(plane.line(*np.array(found, dtype=float).T, look))
        best = stage.epochs[-1].get("best_epoch")
        for (label, read), (look, shape) in zip(lines, MARKED, strict=True):
            value = read(stage.epochs[best - 1]) if best and best <= len(stage.epochs) else None
            if value is not None:
                hint = f"stage {stage.number}, best epoch {best}: {label} {value:.4f}"
                drawn.append(plane.mark(before + best, value, shape, look, hint=hint, size=5))
        for epoch in stage.epochs:
            rows.append([f"{stage.number}.{epoch.get('epoch')}", *(number(read(epoch), 4) for _, read in lines)])
        before += len(stage.epochs)
    data = table(title, ["stage.epoch", *(label for label, _ in lines)], rows, right=(1, 2))
    keys = [(look, shape, label) for (label, _), (look, shape) in zip(lines, MARKED, strict=True)]
    said = f"{title} over {total} epochs of {len(stages)} stages; marks are the best epochs, by which the checkpoint was chosen"
    return figure(name, title, said, join(drawn, ""), size=(plane.width, plane.height), key=legend(keys), data=data)


def _val(epoch: Mapping[str, Any], name: str) -> float | None:
    return (epoch.get("val") or {}).get(name)
