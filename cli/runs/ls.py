"""`d2st runs ls`: all runs and sweeps, a row each."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from d2st.cli.runs.options import Json, Runs
from d2st.cli.runs.read import RunRow, read_runs, sweep_best

__all__ = ["ls", "when"]


COLUMNS = ("run", "stages", "adapter", "cache", "val AUC", "test AUC", "when", "size", "note")
WIDE = 100  # columns of a terminal that has room for all of them


class Sort(StrEnum):
    when = "when"
    name = "name"
    val = "val"
    test = "test"
    size = "size"


def ls(
    runs: Runs = Path("runs"),
    sort: Annotated[Sort, typer.Option(help="Newest first, by name, or the highest first.")] = Sort.when,
    as_json: Json = False,
) -> None:
    """List runs and sweeps.

    AUCs are of the last finished stage; of a sweep, its winner's mean over new seeds.

    Test AUC is there when `d2st eval` has been run on that checkpoint. AUCs of other caches or manifests do not compare: `d2st runs best`
    keeps them apart.

    \b
    Examples:
      d2st runs ls
      d2st runs ls --sort val
      d2st runs ls --runs results/runs --json
    """
    from d2st.cli.show import human_bytes, print_json, stdout, table

    found = read_runs(runs)
    keys: dict[Sort, Callable[[RunRow], Any]] = {
        Sort.when: lambda row: -row.when_s,
        Sort.name: lambda row: row.path.name,
        Sort.val: lambda row: -(_val(row) if _val(row) is not None else -1.0),
        Sort.test: lambda row: -(row.last.test if row.last and row.last.test is not None else -1.0),
        Sort.size: lambda row: -row.size_bytes,
    }
    found.sort(key=keys[sort])
    if as_json:
        print_json([_document(row) for row in found])
        return
    marks = _marks(found)
    console, rows = stdout(), []
    wide = console.width >= WIDE
    for row in found:
        last = row.last
        stages = f"{row.sweep.get('recipe', {}).get('stage', '?')}, sweep" if row.sweep is not None else _stages(row)
        cells = (last.adapter, marks.get(row.path, last.cache)) if last else ("", "")
        aucs = (_number(_val(row)), _number(last.test if last else None))
        date = when(row.when_s) if wide else when(row.when_s)[5:]
        rows.append((row.path.name, stages, *cells, *aucs, date, human_bytes(row.size_bytes), _note(row)))
    left_out = set() if wide else {"cache", "size"}
    left_out |= set() if any(row[-1] for row in rows) else {"note"}
    kept = [place for place, name in enumerate(COLUMNS) if name not in left_out]
    shown = ([row[place] for place in kept] for row in rows)
    console.print(
        table(f"{len(found)} in {runs}", [COLUMNS[place] for place in kept], shown, right=("val AUC", "test AUC", "size"))
    )


def when(seconds: float | None) -> str:
    """Local date and time, to the minute."""
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _val(row: RunRow) -> float | None:
    best = sweep_best(row)
    return best[1] if best else row.last.val if row.last else None


def _stages(row: RunRow) -> str:
    return " ".join(f"{stage.stage}" + ("" if stage.state == "finished" else "*") for stage in row.stages)


def _note(row: RunRow) -> str:
    if row.sweep is not None:
        counts = (row.summary or {}).get("trials", {})
        return row.note or f"{counts.get('complete', 0)} of {sum(counts.values())} trials finished"
    notes = []
    for stage in row.stages:
        if stage.state != "finished":
            notes.append(f"stage {stage.stage} {stage.state}" + (f": {stage.note}" if stage.note else ""))
        elif stage.shuffled:
            notes.append("shuffled labels")
    return "; ".join(notes)


def _marks(rows: list[RunRow]) -> dict[Path, str]:
    """Caches by name; with the beginning of its fingerprint where several of one name are other caches."""
    prints: dict[str, set[str]] = {}
    known = [(row.path, row.last.cache, row.last.data[0]) for row in rows if row.last and row.last.cache and row.last.data]
    for _, name, mark in known:
        prints.setdefault(name, set()).add(str(mark))
    return {path: f"{name} {str(mark)[:6]}" for path, name, mark in known if len(prints[name]) > 1}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _document(row: RunRow) -> dict[str, Any]:
    from dataclasses import asdict

    stages = [{**asdict(stage), "path": stage.path.as_posix()} for stage in row.stages]
    for stage in stages:
        del stage["result"], stage["data"]
    kind = "run" if row.sweep is None else "sweep"
    return {
        "name": row.path.name,
        "kind": kind,
        "path": row.path.as_posix(),
        "val": _val(row),
        "test": row.last.test if row.last else None,
        "when_s": row.when_s or None,
        "size_bytes": row.size_bytes,
        "note": _note(row),
        "stages": stages,
    }
