"""Cross matrices: what each run was trained on against what it is tested on, by data set and by manipulation.

A cell is the video-level AUC with its interval; a column is one data set's images or videos (pooling them would compare backgrounds), and
for manipulations its fakes of one kind with all reals of that data set and kind. Within a column all runs are measured on the same samples:
those that every run which scored any of the column has scored. `seen` says whether the run was trained on samples of that column's data
set, or on its manipulation from that data set; it is None where the run's training samples can't be told any more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.bootstrap import bootstrap_intervals
from d2st.adapter.evaluate.groups import by_video, parts, per_method, with_two_kinds
from d2st.adapter.evaluate.metrics import binary_auc, tally
from d2st.adapter.evaluate.nulls import bounds_or_null, value_or_null

__all__ = ["Row", "cross_matrices"]

Pairs = frozenset[tuple[str, str]]
Column = tuple[str, str, str | None]  # data set, kind, manipulation


@dataclass(frozen=True)
class Row:
    """A run: its name, its predictions, and the (data set, method) pairs it was trained on, "real" included; None if they can't be told."""

    name: str
    predictions: pl.DataFrame
    trained: Pairs | None


def cross_matrices(rows: Sequence[Row], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"datasets": matrix, "methods": matrix}, matrix = {"rows": [name], "trained_on": [[str] or null], "columns": [{"dataset", "kind",
    "method"}], "cells": [[{"auc", "interval", "n_real", "n_fake", "seen"} or null]]}, cells by row and column; null where the run has
    not scored the column. `trained_on` and a column's `method` are data sets and null in the first matrix.
    """
    tables = [with_two_kinds(row.predictions) for row in rows]

    def matrix(columns: Mapping[Column, list[pl.DataFrame | None]], trained: Callable[[Pairs], set[str]]) -> dict[str, Any]:
        keys = sorted(columns, key=lambda key: tuple(part or "" for part in key))
        cells = [
            [_cell(columns[key][place], key, row.trained, resamples=resamples, seed=seed) for key in keys]
            for place, row in enumerate(rows)
        ]
        return {
            "rows": [row.name for row in rows],
            "trained_on": [None if row.trained is None else sorted(trained(row.trained)) for row in rows],
            "columns": [dict(zip(("dataset", "kind", "method"), key, strict=True)) for key in keys],
            "cells": cells,
        }

    datasets: dict[Column, list[pl.DataFrame | None]] = {}
    methods: dict[Column, list[pl.DataFrame | None]] = {}
    for place, table in enumerate(tables):
        for dataset, inside in parts(table, "dataset"):
            for kind, part in parts(inside, "kind"):
                datasets.setdefault((dataset, kind, None), [None] * len(rows))[place] = part
                for method, pair in per_method(part):
                    methods.setdefault((dataset, kind, method), [None] * len(rows))[place] = pair
    return {
        "datasets": matrix({key: _common(found) for key, found in datasets.items()}, lambda pairs: {name for name, _ in pairs}),
        "methods": matrix({key: _common(found) for key, found in methods.items()}, _manipulations),
    }


def _manipulations(pairs: Pairs) -> set[str]:
    return {f"{dataset}: {method}" for dataset, method in pairs if method != "real"}


def _common(found: Sequence[pl.DataFrame | None]) -> list[pl.DataFrame | None]:
    """Each run's rows of a column, of the samples that all have which have any."""
    there = [part.select("sample_id") for part in found if part is not None]
    shared = there[0]
    for ids in there[1:]:
        shared = shared.join(ids, on="sample_id", how="semi")
    return [None if part is None else part.join(shared, on="sample_id", how="semi") for part in found]


def _cell(
    rows: pl.DataFrame | None, column: Column, trained: Pairs | None, *, resamples: int, seed: int
) -> dict[str, Any] | None:
    if rows is None:
        return None
    dataset, _, method = column
    videos = by_video(rows)
    labels, scores = videos["label"].to_numpy(), videos["score"].to_numpy()
    value = float(binary_auc(tally(labels, scores)))
    bounds = bootstrap_intervals(labels, scores, np.arange(len(videos)), {"auc": binary_auc}, resamples=resamples, seed=seed)[
        "auc"
    ]
    seen = None if trained is None else (dataset, method) in trained if method else any(name == dataset for name, _ in trained)
    return {
        "auc": value_or_null(value),
        "interval": bounds_or_null(bounds),
        "n_real": int((labels == 0).sum()),
        "n_fake": int((labels == 1).sum()),
        "seen": seen,
    }
