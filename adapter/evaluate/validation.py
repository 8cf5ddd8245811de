"""The validation split's predictions, from which alone a temperature may be fitted: made here, or those that `d2st eval --split val` kept.

Kept predictions count only if they come from the very same checkpoint, whose digest stands in the metrics.json beside them, and have the
labels and splits of the cache: what another manifest calls val may have been trained on.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from d2st.adapter.evaluate.calibration import FITTED_ON
from d2st.adapter.evaluate.score import PREDICTIONS, score_samples
from d2st.adapter.nets.detector import Detector
from d2st.cache.errors import RunError
from d2st.cache.loader import TokenLoader
from d2st.cache.store import Store

__all__ = ["kept_validation", "score_validation"]


def score_validation(
    detector: Detector,
    stores: Sequence[Store],
    *,
    layers: Sequence[str],
    clip_frames: int,
    manifest: pl.DataFrame | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Predictions (`score.PREDICTIONS`) of the val split of all stores, none where they have none; arguments as in `evaluate_run`.

    `on_progress` is called as (samples done, samples in all) after each store.
    """
    chosen = [store.samples(manifest).filter(pl.col("split") == FITTED_ON) for store in stores]
    made, done = [PREDICTIONS.to_frame()], 0
    for store, samples in zip(stores, chosen, strict=True):
        if samples.is_empty():
            continue
        with TokenLoader(store, layers, device=device, maps=detector.adapter.needs_maps) as loader:
            made.append(score_samples(detector, loader, samples, clip_frames=clip_frames))
        done += len(samples)
        if on_progress is not None:
            on_progress(done, sum(map(len, chosen)))
    return pl.concat(made)


def kept_validation(folder: Path, *, checkpoint: str) -> pl.DataFrame | None:
    """The predictions that an evaluation of the val split left in `folder`, or None unless it is whole and of this checkpoint.

    Raises:
        RunError: its files are damaged.
    """
    if not (folder / "metrics.json").is_file():  # written last
        return None
    try:
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        about = summary["about"]
        if summary["split"] != FITTED_ON or about.get("checkpoint") != checkpoint or about.get("manifests"):
            return None
        return pl.read_parquet(folder / "predictions.parquet").match_to_schema(PREDICTIONS)
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"the evaluation in {folder} is damaged: {error}", fix="Remove that folder, or evaluate again"
        ) from error
