"""What a sweep leaves behind when it is over: the winner as a recipe, a table of all trials, the outcome, pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.sweep.plots import history_png, importances_png, parallel_png
from d2st.adapter.sweep.record import SUMMARY, trial_folder
from d2st.adapter.sweep.space import Choice, Space
from d2st.adapter.sweep.study import Row
from d2st.adapter.train.recipe_file import to_toml
from d2st.cache.files import atomic_file, write_atomic

__all__ = ["BEST_RECIPE", "TABLE", "best_recipe", "trial_table", "write_outcome"]

BEST_RECIPE, TABLE, PLOTS = "best.toml", "sweep.parquet", "plots"


def write_outcome(
    folder: Path, space: Space, rows: Sequence[Row], outcome: Mapping[str, Any], *, start: str, tokens: str = "main"
) -> None:
    """Write best.toml, sweep.parquet, plots/ and, last, summary.json.

    Args:
        start: name of the checkpoint that trials start from, or "". tokens: name of the token set that they read.

    Several processes of a sweep may do so: they write the same.
    """
    write_atomic(folder / BEST_RECIPE, best_recipe(folder, space, rows, outcome, start=start, tokens=tokens).encode())
    with atomic_file(folder / TABLE) as file:
        trial_table(folder, space, rows).write_parquet(file)
    write_atomic(folder / PLOTS / "history.png", history_png(rows, title=folder.name))
    write_atomic(folder / PLOTS / "parallel.png", parallel_png(space, rows, title=folder.name))
    if importances := outcome["importances"]:
        write_atomic(folder / PLOTS / "importances.png", importances_png(importances, title=folder.name))
    write_atomic(folder / SUMMARY, (json.dumps(outcome, indent=2, allow_nan=False) + "\n").encode())  # in the order of the axes


def best_recipe(folder: Path, space: Space, rows: Sequence[Row], outcome: Mapping[str, Any], *, start: str, tokens: str) -> str:
    """The winner's whole recipe as TOML, under a comment that says where it comes from."""
    winner = outcome["finalists"][0]
    row = rows[winner["trial"]]
    recipe = space.recipe(row.values)
    said = [
        f"validation AUC {winner['first']:.4f} when the search picked it, as the best of {outcome['trials']['complete']} finished"
    ]
    if winner["mean"] is not None:
        spread = "" if winner["sd"] is None else f" +- {winner['sd']:.4f}"
        said = [
            f"validation AUC {winner['mean']:.4f}{spread} over {len(winner['values'])} new seeds; {winner['first']:.4f} when picked"
        ]
    init = f" --init DIR/{start}" if start else ""  # a name is known here, and not where it lies
    others = f" --tokens {tokens}" if tokens != "main" else ""
    lines = [
        f"What it is:    the winner of the sweep {folder.name}, trial {winner['trial']}: {said[0]}.",
        f"Drawn:         {', '.join(f'{key} = {json.dumps(value)}' for key, value in row.values.items())}",
        f"What it needs: a cache with the same layers{', and the checkpoint ' + start if start else ''}.",
        f"Command:       d2st train --cache STORE{others} --recipe THIS_FILE{init}",
        "Change one:    append --set optim.epochs=20",
    ]
    return "".join(f"# {line}\n" for line in lines) + "#\n" + to_toml(recipe)


def trial_table(folder: Path, space: Space, rows: Sequence[Row]) -> pl.DataFrame:
    """A row a trial: trial, state, value, epochs, best_epoch, error, folder, and a column for each key that was swept (lists as JSON)."""
    made: dict[str, Any] = {
        "trial": pl.Series([row.number for row in rows], dtype=pl.Int64),
        "state": pl.Series([row.state for row in rows], dtype=pl.String),
        "value": pl.Series([row.value for row in rows], dtype=pl.Float64),
        "epochs": pl.Series([max(row.epochs, default=0) for row in rows], dtype=pl.Int64),
        "best_epoch": pl.Series([_best_epoch(row) for row in rows], dtype=pl.Int64),
        "error": pl.Series([row.error for row in rows], dtype=pl.String),
        "folder": pl.Series([trial_folder(folder, row.number).relative_to(folder).as_posix() for row in rows], dtype=pl.String),
    }
    for axis in space.axes:
        column = [row.values.get(axis.key) for row in rows]
        if isinstance(axis, Choice) and not _alike(axis):
            made[axis.key] = pl.Series([None if value is None else json.dumps(value) for value in column], dtype=pl.String)
        else:
            made[axis.key] = pl.Series(column, strict=False)
    return pl.DataFrame(made)


def _best_epoch(row: Row) -> int | None:
    """The first epoch whose best is that of all."""
    best = max(row.epochs.values(), default=None)
    return next((epoch for epoch, value in row.epochs.items() if value == best), None)


def _alike(axis: Choice) -> bool:
    """Whether one column can hold all values as they are."""
    kinds = {type(value) for value in axis.values}
    return kinds <= {int, float} or kinds == {str} or kinds == {bool}
