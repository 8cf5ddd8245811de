"""Charts of predictions, at video level and one panel a kind: ROC, DET, scores of reals and fakes, reliability; and of a sample's frames.

DET curves (Martin et al., Eurospeech 1997) show both error rates on normal-deviate axes, where the low rates that matter have room.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.groups import by_video, parts, per_method, with_two_kinds
from d2st.adapter.evaluate.metrics import THRESHOLD, Tally, binary_auc, roc_curve, tally
from d2st.adapter.report.markup import Html, join, number, table, tag
from d2st.adapter.report.svg import MARKED, SERIES_MAX, Axis, Plane, figure, legend, letter

__all__ = ["det_curves", "histograms", "reliability", "roc_curves", "timeline"]

BINS = 20
RATES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the tables
PERCENT = [(v / 100, f"{v}") for v in (0, 20, 40, 60, 80, 100)]
DEVIATE = [(v / 100, f"{v}") for v in (1, 2, 5, 10, 20, 40, 60, 80)]
Curve = tuple[str, Tally]


def roc_curves(predictions: pl.DataFrame) -> list[Html]:
    """One figure a kind; kinds with one class alone have none."""
    plane = Plane(Axis("false positive rate [%]", 0, 1, PERCENT), Axis("true positive rate [%]", 0, 1, PERCENT), height=400)
    made = []
    for kind, curves in _by_kind(predictions):
        drawn = [plane.grid(), plane.line(np.array([0, 1]), np.array([0, 1]), "chance")]
        rows, keys = [], []
        for place, (name, counts) in enumerate(curves):
            fpr, tpr = roc_curve(counts)
            drawn += [plane.line(fpr, tpr, f"s{place}"), _badge_on(plane, fpr, tpr, place, len(curves))]
            keys.append((f"s{place}", letter(place), f"{name}: AUC {binary_auc(counts):.3f}"))
            rows.append([name, number(float(binary_auc(counts))), *(number(float(tpr[fpr <= r].max())) for r in RATES)])
        columns = ["manipulation", "AUC", *(f"TPR at FPR ≤ {rate:.0%}" for rate in RATES)]
        data = table(f"ROC of {kind}s", columns, rows, right=range(1, len(columns)))
        said = f"True positive rate against false positive rate of {kind}s: " + "; ".join(words for _, _, words in keys)
        made.append(_figure(f"roc-{kind}", f"ROC: {kind}s", said, plane, drawn, key=legend(keys), data=data))
    return made


def det_curves(predictions: pl.DataFrame) -> list[Html]:
    """One figure a kind, as `roc_curves`; rates below 0.5 % and above 90 % lie on the edge."""
    bend = NormalDist().inv_cdf
    axes = [Axis(f"false {what} rate [%]", 0.005, 0.9, DEVIATE, bend) for what in ("positive", "negative")]
    plane = Plane(*axes, height=400)
    made = []
    for kind, curves in _by_kind(predictions):
        drawn = [plane.grid(), plane.line(np.array([0.005, 0.9]), np.array([0.005, 0.9]), "chance")]
        drawn.append(plane.label(0.6, 0.6, "equal error", dx=-8, dy=-6, look="tick end"))
        rows, keys = [], []
        for place, (name, counts) in enumerate(curves):
            fpr, tpr = roc_curve(counts)
            drawn += [plane.line(fpr, 1 - tpr, f"s{place}"), _badge_on(plane, fpr, 1 - tpr, place, len(curves))]
            keys.append((f"s{place}", letter(place), name))
            rows.append([name, *(number(1 - float(tpr[fpr <= rate].max())) for rate in RATES)])
        columns = ["manipulation", *(f"FNR at FPR ≤ {rate:.0%}" for rate in RATES)]
        data = table(f"DET of {kind}s", columns, rows, right=range(1, len(columns)))
        said = f"False negative rate against false positive rate of {kind}s on normal-deviate axes; lower left is better"
        made.append(_figure(f"det-{kind}", f"DET: {kind}s", said, plane, drawn, key=legend(keys), data=data))
    return made


def histograms(predictions: pl.DataFrame) -> list[Html]:
    """Scores of reals (up, plain) and of fakes (down, hatched), each as a share of its class."""
    made = []
    for kind, rows in parts(with_two_kinds(predictions), "kind"):
        videos = by_video(rows)
        shares, sizes = [], []
        for label in (0, 1):
            scores = videos.filter(pl.col("label") == label)["score"].to_numpy()
            shares.append(np.histogram(scores, BINS, (0, 1))[0] / max(1, scores.size))
            sizes.append(scores.size)
        top = float(np.ceil(max(0.1, *shares[0], *shares[1]) * 10) / 10)
        steps = [(sign * top * part, f"{top * part:.0%}") for sign in (-1, 1) for part in (0.5, 1)]
        plane = Plane(Axis("score, P(fake)", 0, 1, _tenths()), Axis("share of its class", -top, top, [(0, "0"), *steps]))
        drawn = [plane.grid()]
        for share, sign, look in ((shares[0], 1, "real"), (shares[1], -1, "fake")):
            for place, value in enumerate(share):
                (x1, y1), (x2, y2) = (
                    plane.at(place / BINS, max(0, sign * value)),
                    plane.at((place + 1) / BINS, min(0, sign * value)),
                )
                box = {"x": f"{x1 + 0.5:.1f}", "y": f"{y1:.1f}", "width": f"{x2 - x1 - 1:.1f}", "height": f"{y2 - y1:.1f}"}
                if value:
                    drawn.append(tag("rect", tag("title", f"{look}: {value:.1%}"), **box, class_=f"bar {look}"))
        drawn.append(plane.line(np.array([THRESHOLD] * 2), np.array([-top, top]), "threshold"))
        drawn.append(plane.label(0, top, f"real ({sizes[0]})", dx=6, dy=14, look="strong"))
        drawn.append(plane.label(0, -top, f"fake ({sizes[1]})", dx=6, dy=-6, look="strong"))
        numbers = [
            [f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}", f"{a:.1%}", f"{b:.1%}"]
            for i, (a, b) in enumerate(zip(*shares, strict=True))
        ]
        data = table(f"Scores of {kind}s", ["score", "of reals", "of fakes"], numbers, right=(1, 2))
        said = f"Scores of {sizes[0]} real and {sizes[1]} fake {kind}s; the dashed line is the threshold {THRESHOLD}"
        made.append(_figure(f"scores-{kind}", f"Scores: {kind}s", said, plane, drawn, data=data))
    return made


def reliability(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
    """Share of fakes against mean score, bin by bin; two sets of bins at most, name -> bins as metrics.json has them."""
    plane = Plane(Axis("mean score of a bin", 0, 1, _tenths()), Axis("share of fakes in it", 0, 1, _tenths()), height=400)
    drawn = [plane.grid(), plane.line(np.array([0, 1]), np.array([0, 1]), "chance")]
    keys, rows = [], []
    for (name, found), (look, shape) in zip(bins.items(), MARKED, strict=False):
        used = [made for made in found if made["count"]]
        xs, ys = (np.array([made[key] for made in used], dtype=float) for key in ("mean_score", "share_fake"))
        drawn.append(plane.line(xs, ys, look))
        total = sum(made["count"] for made in used)
        for made in used:
            hint = f"{name}: {made['count']} videos, mean score {made['mean_score']:.3f}, {made['share_fake']:.1%} fake"
            size = 3 + 12 * (made["count"] / total) ** 0.5
            drawn.append(plane.mark(made["mean_score"], made["share_fake"], shape, look, hint=hint, size=size))
            span = f"{made['low']:.3f} to {made['high']:.3f}"
            rows.append([name, span, made["count"], number(made["mean_score"]), number(made["share_fake"])])
        keys.append((look, shape, name))
    data = table("Reliability", ["scores", "bin", "videos", "mean score", "share of fakes"], rows, right=(2, 3, 4))
    said = "Of the videos of like score, how many are fake; calibrated scores lie on the diagonal, a large mark is a full bin"
    return _figure("reliability", "Reliability: all videos", said, plane, drawn, key=legend(keys), data=data)


def timeline(scores: Sequence[float], *, shown: int) -> Html:
    """A sample's frame scores in order, with the threshold; the frame of the picture is ringed. Its label lists them."""
    width, height, edge = 160, 44, 6
    xs = np.linspace(edge, width - edge, len(scores)) if len(scores) > 1 else np.array([width / 2])
    ys = height - edge - (height - 2 * edge) * np.asarray(scores, dtype=float)
    middle = height - edge - (height - 2 * edge) * THRESHOLD
    drawn = [tag("line", x1=0, x2=width, y1=f"{middle:.1f}", y2=f"{middle:.1f}", class_="rule threshold")]
    if len(scores) > 1:
        drawn.append(
            tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)), class_="line s0")
        )
    for place, (x, y) in enumerate(zip(xs, ys, strict=True)):
        look = f"dot{' fake' if scores[place] > THRESHOLD else ' real'}{' ringed' if place == shown else ''}"
        drawn.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4 if place == shown else 2, class_=look))
    said = "Frame scores: " + ", ".join(f"{score:.2f}" for score in scores)
    return tag("svg", tag("title", said), *drawn, viewBox=f"0 0 {width} {height}", role="img", class_="timeline")


def _by_kind(predictions: pl.DataFrame) -> Iterator[tuple[str, list[Curve]]]:
    """All fakes, then the hardest manipulations, of each kind that has both classes."""
    for kind, rows in parts(with_two_kinds(predictions), "kind"):
        several = rows["dataset"].n_unique() > 1
        found = [
            (f"{dataset}: {method}" if several else method, _tally(pair))
            for dataset, part in parts(rows, "dataset")
            for method, pair in per_method(part)
        ]
        hardest = sorted((c for c in found if not np.isnan(binary_auc(c[1]))), key=lambda curve: float(binary_auc(curve[1])))
        whole = _tally(rows)
        if not np.isnan(binary_auc(whole)):
            yield kind, [("all", whole), *(hardest[: SERIES_MAX - 1] if len(found) > 1 else [])]


def _tally(rows: pl.DataFrame) -> Tally:
    videos = by_video(rows)
    return tally(videos["label"].to_numpy(), videos["score"].to_numpy())


def _badge_on(plane: Plane, xs: np.ndarray, ys: np.ndarray, place: int, count: int) -> Html:
    """The curve's letter, each curve's at another stretch of its way."""
    points = np.array([plane.at(x, y) for x, y in zip(xs, ys, strict=True)])
    way = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    share = way[-1] * (0.25 + 0.5 * (place + 0.5) / count)
    return plane.badge(float(np.interp(share, way, xs)), float(np.interp(share, way, ys)), letter(place), f"s{place}")


def _tenths() -> list[tuple[float, str]]:
    return [(v / 5, f"{v / 5:.1f}") for v in range(6)]


def _figure(name: str, title: str, said: str, plane: Plane, drawn: Sequence[Html], **parts_: Html) -> Html:
    return figure(name, title, said, join(drawn, ""), size=(plane.width, plane.height), **parts_)
