"""`d2st runs show`: one run or sweep in full."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.runs.detail import stage_document, value_text
from d2st.cli.runs.ls import when
from d2st.cli.runs.options import Json, Runs
from d2st.cli.runs.read import RunRow, find_run, read_run
from d2st.cli.sweep_board import drawn_text, sparkline

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["show"]

COURSE = 40  # epochs that a sparkline has room for
TOP = 8  # trials of a sweep


def show(
    run: Annotated[str, typer.Argument(metavar="NAME", help="A run, a sweep, one of its trials or stages: by name or path.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show a run or a sweep in full.

    What it started from, how it went, what it measured, and how its recipe differs from the one that comes with d2st.

    \b
    Examples:
      d2st runs show faces
      d2st runs show faces/stage2
      d2st runs show first-sweep
      d2st runs show first-sweep/trials/0007 --json
    """
    from d2st.cli.show import print_json, stdout

    row = read_run(find_run(run, runs))
    assert row is not None
    if row.sweep is not None:
        if as_json:
            print_json({"sweep": row.path.name, **row.sweep, "outcome": row.summary, "ended": row.trials, "note": row.note})
            return
        _show_sweep(row)
        return
    documents = [stage_document(stage) for stage in row.stages]
    if as_json:
        print_json({"run": row.path.as_posix(), "stages": documents})
        return
    for document in documents:
        stdout().print(_stage_table(row, document))


def _stage_table(row: RunRow, found: dict[str, Any]) -> "Table":
    from d2st.cli.show import human_time, table

    result, epochs, environment = found["result"], found["epochs"], found["environment"]
    lines: list[tuple[str, str]] = [("state", found["state"] + (f": {found['note']}" if found["note"] else ""))]
    if result:
        lines[0] = ("state", f"{found['state']} ({result['ended']}), {when(found['when_s'])}, {human_time(result['seconds'])}")
        size = f"{result['parameters']:,} parameters" + (
            f", {result['gflops']:.3g} GFLOP a clip" if result.get("gflops") else ""
        )
        lines.append(("adapter", f"{result['adapter']}: {size}"))
        lines.append(
            ("samples", f"{result['train_samples']} training, {result['val_samples']} validation, of {found['cache']}")
        )
    lines.append(("started from", found["start"] or "scratch"))
    if environment:
        device = (
            f"{environment.get('device')}, {environment.get('precision')}, torch {environment.get('packages', {}).get('torch')}"
        )
        lines.append(("device", device))
    if epochs:
        last = epochs[-1]
        val = [record["val"][last["metric"]] for record in epochs]
        best = f"best {last['best']:.4f} in epoch {last['best_epoch']} of {len(val)}, by {last['metric']}"
        lines.append(("val AUC", f"{sparkline(val, width=COURSE)}  {best}"))
        loss = [record["loss"] for record in epochs]
        lines.append(("train loss", f"{sparkline(loss, width=COURSE)}  {loss[0]:.4f} to {loss[-1]:.4f}"))
    for split, kinds in found["evaluations"].items():
        for kind, part in kinds.items():
            if part["auc"] is not None:
                bounds = f" ({part['interval'][0]:.3f}-{part['interval'][1]:.3f})" if part["interval"] else ""
                eer = f", EER {part['eer']:.3f}" if part["eer"] is not None else ""
                lines.append((f"{split}, {kind}s", f"AUC {part['auc']:.4f}{bounds}{eer}"))
    if found["shuffled_labels"]:
        lines.append(("labels", "shuffled: a control, not a detector"))
    if found["differences"] is not None:
        known = f"stage{found['stage']} as it comes with d2st"
        lines.append(("recipe", f"{known}, but for" if found["differences"] else known))
        lines += [(key, f"{value_text(here)}, not {value_text(one)}") for key, (one, here) in found["differences"].items()]
    return table(f"{found['path']}", ("", "value"), lines)


def _show_sweep(row: RunRow) -> None:
    from d2st.cli.show import stdout, table

    console, sweep = stdout(), row.sweep or {}
    lines = [("state", row.note or f"over, {when(row.when_s)}")]
    if "recipe" in sweep:
        recipe = sweep["recipe"]
        lines.append(
            ("searches", f"stage {recipe['stage']}, {sweep['sampler']} with pruner {sweep['pruner']}, {sweep['trials']} trials")
        )
        lines += [(key, _axis_text(axis)) for key, axis in sweep["sweep"].items()]
    console.print(table(f"sweep {row.path}", ("", "value"), lines))
    if row.note:
        again = f"d2st sweep {row.path}/space.toml --cache STORE --runs {row.path.parent} --name {row.path.name}"
        console.print(f"to go on: {again}", markup=False, soft_wrap=True)
    if row.summary is None:
        return
    from d2st.adapter.sweep.winner import noise_lines
    from d2st.cli.sweep import finalists_table

    console.print(finalists_table({"sweep": row.path.name, **row.summary}))
    for line in noise_lines(row.summary):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    if row.summary["importances"]:
        shares = ", ".join(
            f"{key} {share:.0%}" for key, share in sorted(row.summary["importances"].items(), key=lambda item: -item[1])
        )
        console.print(f"what matters for being among the best: {shares}", markup=False, soft_wrap=not console.is_terminal)
    others = _others(row.path, {found["trial"] for found in row.summary["finalists"]})
    if others:
        columns = ("trial", "state", "val AUC", "epochs", "drawn")
        console.print(table("the next best", columns, others, right=("trial", "val AUC", "epochs")))
    console.print(f"recipe: {row.path}/best.toml; pictures: {row.path}/plots", markup=False, soft_wrap=True)


def _axis_text(axis: Any) -> str:
    if isinstance(axis, list):
        return ", ".join(map(value_text, axis))
    step = f" in steps of {axis['step']}" if axis.get("step") else ""
    return f"{axis['low']} to {axis['high']}{step}{', logarithmic' if axis['log'] else ''}"


def _plain(value: Any) -> Any:
    """A value of the table as it was drawn: lists, and what may be a list, are JSON there."""
    return json.loads(value) if isinstance(value, str) and value[:1] in '["{' else value


def _others(path: Path, finalists: set[int]) -> list[tuple[Any, ...]]:
    """The best trials that are no finalists, from sweep.parquet."""
    import polars as pl

    if not (path / "sweep.parquet").is_file():
        return []
    trials = pl.read_parquet(path / "sweep.parquet").filter(pl.col("value").is_not_null(), ~pl.col("trial").is_in(finalists))
    own = ("trial", "state", "value", "epochs", "best_epoch", "error", "folder")
    found = []
    for row in trials.sort("value", descending=True).head(TOP).to_dicts():
        drawn = {key: _plain(value) for key, value in row.items() if key not in own and value is not None}
        found.append((row["trial"], row["state"], f"{row['value']:.4f}", row["epochs"], drawn_text(drawn)))
    return found
