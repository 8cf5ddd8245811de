"""Puts a robustness study on the disk, beside the evaluation that it belongs to: numbers as JSON, scores as Parquet, curves as PNG."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.robustness_plot import robustness_png
from d2st.cache.files import atomic_file, write_atomic

__all__ = ["write_robustness"]


def write_robustness(
    out_dir: Path, document: Mapping[str, Any], scored: Mapping[tuple[str | None, int], pl.DataFrame], *, title: str
) -> None:
    """Write robustness.parquet, plots/robustness.png and at last robustness.json: where that is, the others belong to it.

    Args:
        document: JSON values, as for `robustness_png`.
        scored: predictions by perturbation (None for the clean pictures) and severity.

    Raises:
        StoreError: the disk is full or not writable.
        ValueError: `document` holds NaN, which JSON can't.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    scores = [
        predictions.select(
            pl.lit(name, pl.String).alias("perturbation"),
            pl.lit(severity, pl.Int8).alias("severity"),
            "sample_id",
            "label",
            "logit",
            "score",
        )
        for (name, severity), predictions in scored.items()
    ]
    (out_dir / "robustness.json").unlink(missing_ok=True)
    with atomic_file(out_dir / "robustness.parquet") as file:
        pl.concat(scores).write_parquet(file)
    write_atomic(out_dir / "plots" / "robustness.png", robustness_png(document, title=title))
    write_atomic(out_dir / "robustness.json", text.encode())
