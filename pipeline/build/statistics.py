"""Channel statistics, gathered and brought up to date: splits change after a build, and frames that went to the test split must leave.

They are computed from the stored maps, in the order in which the build adds frames up, so that both ways give the same bytes. No CLIP runs.
"""

from collections.abc import Collection

import numpy as np
import polars as pl

from d2st.cache.codec import Calibration, as_tensor, decode
from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.level import Level
from d2st.cache.moments import Moments, add_frames, counted_digest, moments_bytes, moments_name, read_moments
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store, read_calibration

__all__ = ["add_to_moments", "refresh_all_statistics", "refresh_statistics"]

READ_FRAMES = 16


def add_to_moments(moments: dict[str, Moments], layer: str, arrays: dict[str, np.ndarray], calibration: Calibration) -> None:
    """Add frames of one layer, as they are stored, to its channel statistics.

    Args:
        moments: statistics by name (`layer`, `layer/cls`), updated in place.
        arrays: kind -> (n, ...) for maps, cls and (int8) scales.
        calibration: by which int8 maps were quantised.
    """
    maps = decode(arrays["maps"], arrays.get("scales"), calibration.get(layer))  # (n,H,W,C)
    for name, values in ((layer, maps), (f"{layer}/cls", as_tensor(arrays["cls"]))):
        moments[name] = add_frames(moments.get(name), values.float().numpy())


def refresh_all_statistics(store: Store, counted: Collection[str]) -> int:
    """`refresh_statistics` of every level of every token set."""
    levels = [level for name in store.token_sets() for level in store.token_levels(name)]
    return sum(refresh_statistics(level, counted) for level in levels)


def refresh_statistics(level: Level, counted: Collection[str]) -> int:
    """Recompute the statistics of each shard of a tokens level whose counted samples are not those of `counted` any more.

    Returns:
        How many shards that were. Missing and damaged files are made anew too.
    """
    calibration: Calibration = {}
    made = 0
    for part in level.parts():
        rows = part.rows.filter(pl.col("reason").is_null()).sort("start")
        rows = rows.filter(pl.col("sample_id").is_in(list(counted)))
        path, digest = level.path / moments_name(part.shard), counted_digest(rows["sample_id"])
        try:
            if read_moments(path)[1] == digest:
                continue
        except StoreError:  # derived: made anew below
            pass
        if level.config["dtype"] == "int8" and not calibration:
            calibration = read_calibration(level)
        spans = [np.arange(start, start + frames) for start, frames in rows.select("start", "frames").iter_rows()]
        moments = _moments(level, np.concatenate([np.zeros(0, np.int64), *spans]), calibration)
        write_atomic(path, moments_bytes(dict(sorted(moments.items())), counted=digest))
        made += 1
    return made


def _moments(level: Level, rows: np.ndarray, calibration: Calibration) -> dict[str, Moments]:
    moments: dict[str, Moments] = {}
    kinds = ("maps", "scales", "cls") if level.config["dtype"] == "int8" else ("maps", "cls")
    for layer in level.config["layers"] if len(rows) else ():
        readers = {kind: ArrayReader(level.array(f"{layer}/{kind}")) for kind in kinds}
        for begin in range(0, len(rows), READ_FRAMES):
            block = rows[begin : begin + READ_FRAMES]
            arrays = {kind: np.empty((len(block), *reader.frame_shape), reader.dtype) for kind, reader in readers.items()}
            for kind, reader in readers.items():
                reader.read(block, arrays[kind])
            add_to_moments(moments, layer, arrays, calibration)
        for reader in readers.values():
            reader.close()
    return moments
