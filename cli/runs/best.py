"""`d2st runs best`: the run with the highest validation AUC, for each stage on each data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from d2st.cli.runs.options import Json, Runs
from d2st.cli.runs.read import RunRow, read_runs, sweep_best
from d2st.cli.runs.stages import StageRow

__all__ = ["best"]


def best(
    runs: Runs = Path("runs"),
    stage: Annotated[int | None, typer.Option(min=1, max=3, help="Of this stage only.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Name the best run of each stage.

    By validation AUC, and apart for each cache, manifest and validation set: AUCs of other data do not compare.

    A sweep counts by its winner's mean over new seeds, where it has one: the score that a trial was picked for is too high. Runs with
    shuffled labels, pruned and unfinished ones do not count.

    \b
    Examples:
      d2st runs best
      d2st runs best --stage 2 --json
    """
    from d2st.cli.show import print_json, stdout, table

    groups: dict[tuple[Any, ...], list[tuple[float, StageRow, int]]] = {}
    for row in read_runs(runs):
        for value, found, seeds in _candidates(row):
            if stage is None or found.stage == stage:
                groups.setdefault((found.stage, *found.data), []).append((value, found, seeds))
    chosen = []
    for key, some in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        value, found, seeds = max(some, key=lambda item: (item[0], item[1].when_s or 0.0))
        chosen.append(
            {
                "stage": found.stage,
                "cache": found.cache,
                "fingerprint": key[1],
                "metric": found.metric,
                "val": value,
                "seeds": seeds,
                "test": found.test,
                "of": len(some),
                "adapter": found.adapter,
                "path": found.path.as_posix(),
            }
        )
    if as_json:
        print_json(chosen)
        return
    several = len({made["fingerprint"] for made in chosen}) > 1
    rows = [
        (
            made["stage"],
            f"{made['cache']} {str(made['fingerprint'])[:6]}" if several else made["cache"],
            f"{made['val']:.4f}" + (f" ({made['seeds']} seeds)" if made["seeds"] else ""),
            "" if made["test"] is None else f"{made['test']:.4f}",
            made["of"],
            made["path"],
        )
        for made in chosen
    ]
    columns = ("stage", "cache", "val AUC", "test AUC", "of", "path")
    shown = table(f"the best of each stage in {runs}", columns, rows, right=("val AUC", "test AUC", "of"))
    shown.columns[-1].overflow = "fold"  # a path that is cut is no path
    stdout().print(shown)


def _candidates(row: RunRow) -> list[tuple[float, StageRow, int]]:
    """(validation AUC, stage, how many seeds it is the mean of; 0 for one run)."""
    usable = [found for found in row.stages if found.state == "finished" and not found.shuffled and found.val is not None]
    if row.sweep is None:
        return [(float(found.val or 0.0), found, 0) for found in usable]
    winner = sweep_best(row)
    if winner is None or not usable:
        return []
    return [(winner[1], usable[0], len((row.summary or {})["finalists"][0]["values"]))]
