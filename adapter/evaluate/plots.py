"""ROC curves, score histograms and reliability diagrams as PNG, one panel a kind (images, videos), at video level.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines also differ in dash, and fakes are hatched.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2st.adapter.evaluate.calibration import BINS as RELIABILITY_BINS
from d2st.adapter.evaluate.calibration import ece, reliability_bins, rescale
from d2st.adapter.evaluate.groups import by_video, parts, per_method, with_two_kinds
from d2st.adapter.evaluate.metrics import THRESHOLD, Tally, binary_auc, roc_curve, tally

__all__ = ["STYLE", "png", "reliability_png", "roc_png", "score_histogram_png"]

BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#8A8A8A"
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4F9A")
DASHES = ("-", "--", "-.")
CURVES_MAX = 10  # more than this and no legend helps: the hardest manipulations are drawn, and the panel says so
BINS = 40
STYLE = {
    "font.size": 10,
    "text.parse_math": False,  # a $ in the name of a run, a file or a manipulation is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
}


def roc_png(predictions: pl.DataFrame, *, title: str) -> bytes:
    """ROC curve of all fakes and of each manipulation, AUC in the legend. Scopes with one class alone have no curve."""
    table = with_two_kinds(predictions)
    several = table["dataset"].n_unique() > 1

    def draw(axes: Axes, rows: pl.DataFrame) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
        overall = _tally(rows)
        if np.isnan(binary_auc(overall)):
            axes.text(0.5, 0.5, "one class only: no ROC", ha="center", va="center", color=GREY)
            return
        _curve(axes, overall, label="all", color="black", linewidth=2.2)
        methods = sorted(_methods(rows, several=several), key=lambda entry: entry[1])
        looks = zip((dash for dash in DASHES for _ in COLOURS), cycle(COLOURS), strict=False)
        for (name, _, counts), (dash, colour) in zip(methods[:CURVES_MAX], looks, strict=False):
            _curve(axes, counts, label=name, color=colour, linestyle=dash, linewidth=1.4)
        left_out = len(methods) - CURVES_MAX
        legend = f"AUC, {CURVES_MAX} hardest of {len(methods)}" if left_out > 0 else "AUC"
        axes.legend(title=legend, loc="lower right", fontsize=8, title_fontsize=8, framealpha=0.9, edgecolor="none")

    return _render(table, draw, title=title)


def score_histogram_png(predictions: pl.DataFrame, *, title: str) -> bytes:
    """How the scores of reals and of fakes are spread, each as a share of its own class, with the threshold."""

    def draw(axes: Axes, rows: pl.DataFrame) -> None:
        videos = by_video(rows)
        for label, name, colour, hatch in ((0, "real", BLUE, ""), (1, "fake", VERMILLION, "////")):
            scores = videos.filter(pl.col("label") == label)["score"].to_numpy()
            if scores.size:
                weights = np.full(scores.size, 100 / scores.size)
                bars = {"color": colour, "alpha": 0.4, "edgecolor": colour, "hatch": hatch, "histtype": "stepfilled"}
                axes.hist(scores, bins=BINS, range=(0, 1), weights=weights, label=f"{name} ({scores.size})", **bars)
        axes.axvline(THRESHOLD, color="black", linewidth=1, linestyle="--")
        axes.set(xlabel="score, P(fake)", ylabel="share of its class [%]", xlim=(0, 1))
        axes.legend(loc="upper center", fontsize=9, framealpha=0.9, edgecolor="none")

    return _render(with_two_kinds(predictions), draw, title=title)


def reliability_png(predictions: pl.DataFrame, *, temperatures: Mapping[str, float], title: str) -> bytes:
    """The share of fakes among videos of like score, bin by bin, as scored and divided by their kind's temperature; a large mark is a
    full bin.

    Calibrated scores lie on the diagonal.
    """

    def draw(axes: Axes, rows: pl.DataFrame) -> None:
        looks = [("as scored", rows, VERMILLION, "-", "o")]
        if (temperature := temperatures.get(rows["kind"][0])) is not None:
            looks.append((f"temperature {temperature:.3g}", rescale(rows, temperatures), BLUE, "--", "s"))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for name, table, colour, dash, marker in looks:
            counts = _tally(table)
            used = [made for made in reliability_bins(counts) if made["count"]]
            x, y = [made["mean_score"] for made in used], [made["share_fake"] for made in used]
            size = np.array([made["count"] for made in used])
            label = f"{name}: ECE {float(ece(counts)):.3f}"
            axes.plot(
                x, y, color=colour, linestyle=dash, linewidth=0.9, alpha=0.4
            )  # few videos in a bin say little: marks lead
            axes.plot([], [], color=colour, linestyle=dash, marker=marker, label=label)
            axes.scatter(x, y, s=12 + 300 * size / size.sum(), color=colour, marker=marker, alpha=0.55, linewidths=0)
        limits = {"xlim": (-0.03, 1.03), "ylim": (-0.03, 1.03), "aspect": "equal"}
        axes.set(xlabel=f"mean score of a bin, P(fake); {RELIABILITY_BINS} bins", ylabel="share of fakes in it", **limits)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, fontsize=8, edgecolor="none")

    return _render(with_two_kinds(predictions), draw, title=title)


def _methods(rows: pl.DataFrame, *, several: bool) -> Iterator[tuple[str, float, Tally]]:
    """(name, AUC, tally) of each manipulation that has reals to be told from."""
    for dataset, part in parts(rows, "dataset"):
        for method, pair in per_method(part):
            counts = _tally(pair)
            area = float(binary_auc(counts))
            if not np.isnan(area):
                yield f"{dataset}: {method}" if several else method, area, counts


def _tally(rows: pl.DataFrame) -> Tally:
    videos = by_video(rows)
    return tally(videos["label"].to_numpy(), videos["score"].to_numpy())


def _curve(axes: Axes, counts: Tally, *, label: str, **look: object) -> None:
    fpr, tpr = roc_curve(counts)
    axes.plot(fpr, tpr, label=f"{binary_auc(counts):.3f}  {label}", **look)


def _render(table: pl.DataFrame, draw: Callable[[Axes, pl.DataFrame], None], *, title: str) -> bytes:
    """One panel a kind; the same predictions give the same bytes."""
    panels = list(parts(table, "kind"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * max(1, len(panels)), 5.0), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=12)
        for place, (kind, rows) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            axes.set_title(f"{kind}s", fontsize=10)
            draw(axes, rows)
        if not panels:
            figure.text(0.5, 0.5, "no samples", ha="center", color=GREY)
        return png(figure)


def png(figure: Figure) -> bytes:
    """A figure's bytes, the same for the same figure: nothing of the day or the program is in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
