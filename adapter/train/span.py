"""How long a stretch of video a training clip shows: long videos are later cut into such, so that a detector sees the pace it knows."""

import json

import numpy as np
import polars as pl

from d2st.cache import Store

__all__ = ["clip_seconds"]

ASKED = 2_000  # videos are enough for a median, and each costs the parsing of a JSON document


def clip_seconds(store: Store, samples: pl.DataFrame) -> float | None:
    """Median over the videos of `samples` of the seconds that their cached frames span; None where nothing tells.

    Frames at the centres of n equal parts of a video span (n - 1) / n of it from first to last: the span is scaled by n / (n - 1), so that
    windows of this length lie beside each other with no gap.

    Args:
        samples: columns sample_id and kind, as `Store.samples` gives them.
    """
    videos = samples.filter(pl.col("kind") == "video").select("sample_id").sort("sample_id")
    if videos.is_empty() or not (store.path / "crops" / "zarr.json").is_file():
        return None
    videos = videos.gather_every(-(-len(videos) // ASKED))
    rows = store.current(store.crops).join(videos, on="sample_id", how="semi")
    spans = []
    for info in rows["info"].drop_nulls():
        times = json.loads(info).get("timestamps_s", [])
        if len(times) > 1 and times[-1] > times[0]:
            spans.append((times[-1] - times[0]) * len(times) / (len(times) - 1))
    return round(float(np.median(spans)), 3) if spans else None
