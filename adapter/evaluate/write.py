"""Puts an evaluation on the disk: predictions for programs (Parquet) and for spreadsheets (CSV), metrics as JSON, plots as PNG.

Each file is there in full or not at all, and metrics.json comes last: where it is, the rest belongs to it.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.plots import reliability_png, roc_png, score_histogram_png
from d2st.cache.files import atomic_file, write_atomic

__all__ = ["predictions_csv", "write_evaluation"]


def write_evaluation(out_dir: Path, predictions: pl.DataFrame, summary: dict[str, Any], *, title: str) -> dict[str, Path]:
    """Write everything into `out_dir`, over what an earlier evaluation left there; returns what was written, by name.

    `summary` is what `summarise` gives.

    Raises:
        StoreError: the disk is full or not writable.
        ValueError: `summary` holds NaN, which JSON can't.
    """
    files = {
        "predictions": out_dir / "predictions.parquet",
        "predictions_csv": out_dir / "predictions.csv",
        "roc": out_dir / "plots" / "roc.png",
        "scores": out_dir / "plots" / "scores.png",
        "reliability": out_dir / "plots" / "reliability.png",
        "metrics": out_dir / "metrics.json",
    }
    document = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files["metrics"].unlink(missing_ok=True)
    with atomic_file(files["predictions"]) as file:
        predictions.write_parquet(file)
    write_atomic(files["predictions_csv"], predictions_csv(predictions).encode())
    write_atomic(files["roc"], roc_png(predictions, title=title))
    write_atomic(files["scores"], score_histogram_png(predictions, title=title))
    temperatures = summary["calibration"]["temperatures"]
    write_atomic(files["reliability"], reliability_png(predictions, temperatures=temperatures, title=title))
    write_atomic(files["metrics"], document.encode())
    return files


def predictions_csv(predictions: pl.DataFrame) -> str:
    """Predictions as CSV: a list is one cell, its items joined by spaces; numbers read back bit for bit."""
    columns = [
        pl.col(name).cast(pl.List(pl.String)).list.join(" ") if isinstance(dtype, pl.List) else pl.col(name)
        for name, dtype in predictions.schema.items()
    ]
    return predictions.select(columns).write_csv()
