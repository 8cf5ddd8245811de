"""`d2st compare`: two or more evaluated runs on the same samples."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.evaluate import Split
from d2st.cli.evaluate_tables import bounded, number
from d2st.cli.show import print_json, stdout, table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["compare"]


class Metric(StrEnum):
    auc = "auc"
    eer = "eer"
    average_precision = "average_precision"
    accuracy = "accuracy"
    f1 = "f1"
    tpr_at_1 = "tpr_at_fpr.0.01"
    tpr_at_5 = "tpr_at_fpr.0.05"
    partial_auc = "partial_auc.0.1"
    brier = "brier"
    ece = "ece"


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...", help="runs/NAME, runs/NAME/stageN, or a checkpoint; the first is the one compared to."
        ),
    ],
    split: Annotated[Split, typer.Option(help="Which evaluations to read.")] = Split.test,
    metric: Annotated[Metric, typer.Option(help="What the table shows.")] = Metric.auc,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write.  [default: compare-SPLIT beside the first run]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print compare.json on stdout.")] = False,
) -> None:
    """Compare runs by what `d2st eval` left of them: is the difference more than chance, and where was each trained and tested?

    Only samples that all runs have scored count. Differences are to the first run, with 95 % of 1,000 resamples of whole videos that all
    runs share, and for the AUC DeLong's p, corrected by Holm's method for several runs. The matrices also read evaluations of other caches
    (`d2st eval RUN --cache STORE`). Writes compare.json and a picture of each matrix.

    \b
    Examples:
      d2st compare runs/faces runs/linear-probe
      d2st compare runs/faces/stage1 runs/faces/stage2 runs/faces/stage3 --metric eer
      d2st compare runs/a runs/b --out results/a-b --json > comparison.json
    """
    import json

    from d2st.adapter.evaluate import compare as comparison
    from d2st.adapter.evaluate.heatmap import heatmap_png
    from d2st.adapter.train.checkpoint import read_meta, resolve_checkpoint
    from d2st.cache.files import write_atomic

    checkpoints = [resolve_checkpoint(run) for run in runs]
    named = zip(checkpoints, comparison.stage_names([path.parent for path in checkpoints]), strict=True)
    scored = [comparison.read_scored(path, name=name, split=split.value, about=read_meta(path)) for path, name in named]
    made = {"split": split.value, **comparison.compare(scored, metric=metric.value)}
    out = out or checkpoints[0].parent.parent.parent / f"compare-{split.value}"
    for name in ("datasets", "methods"):
        title = f"AUC on the {split.value} split, by {'data set' if name == 'datasets' else 'manipulation'}"
        write_atomic(out / f"{name}.png", heatmap_png(made[name], title=title))
    write_atomic(out / "compare.json", (json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    if as_json:
        print_json(made)
        return
    for shown in _tables(made):
        stdout().print(shown)
    matrix = made["datasets"]
    if unknown := [name for name, told in zip(matrix["rows"], matrix["trained_on"], strict=True) if told is None]:
        line = f"what {', '.join(unknown)} learnt from can't be told, since its records or caches are gone: nothing is marked unseen"
        stdout().print(line, markup=False, soft_wrap=True)
    stdout().print(f"compare.json and pictures of the matrices are in {out}", markup=False, soft_wrap=True)


def _tables(made: dict[str, Any]) -> Iterator["Table"]:
    metric, samples = made["metric"], made["samples"]
    columns = [
        "run",
        "adapter",
        f"{metric} (95 % interval)",
        "difference to the first",
        *(["p (DeLong, Holm)"] if metric == "auc" else []),
    ]
    rows = []
    for row in made["runs"]:
        test = row["delong"]
        rows.append([row["run"], row["adapter"], bounded(row["value"], row["interval"]), _difference(row)])
        if metric == "auc":
            rows[-1].append(_p(test["p_holm"]) if test else "")
    title = f"{samples['common']} {made['split']} samples that all runs have scored, {samples['videos']} by video_id"
    yield table(title, columns, rows, right=columns[2:])
    if lost := [[name, count] for name, count in samples["lost"].items() if count]:
        yield table("Left out: scored by this run, but not by all", ["run", "samples"], lost, right=["samples"])
    for name, title in (("datasets", "data set"), ("methods", "manipulation, against the reals of its data set and kind")):
        yield _matrix(made[name], f"AUC by {title} (unseen: not trained on)")


def _matrix(matrix: dict[str, Any], title: str) -> "Table":
    """Columns of the matrix as rows, which a terminal has room for."""
    rows = []
    for place, column in enumerate(matrix["columns"]):
        cells = [line[place] for line in matrix["cells"]]
        shown = [
            bounded(cell["auc"], cell["interval"]) + (" unseen" if cell["seen"] is False else "") if cell else ""
            for cell in cells
        ]
        rows.append([column["dataset"], column["kind"], *([column["method"]] if column["method"] else []), *shown])
    names = ["data set", "kind", *(["manipulation"] if any(column["method"] for column in matrix["columns"]) else [])]
    return table(title, [*names, *matrix["rows"]], rows, right=matrix["rows"])


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    low, high = row["difference_interval"] or (None, None)
    return f"{row['difference']:+.3f}" if low is None else f"{row['difference']:+.3f} {low:+.3f} to {high:+.3f}"


def _p(value: float | None) -> str:
    return number(value) if value is None or value >= 0.001 else "< 0.001"
