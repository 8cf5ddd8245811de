"""Channel statistics, gathered and brought up to date: splits change after a build, and frames that went to the test split must leave.

They are computed from the stored maps, in the order in which the build adds frames up, so that both ways give the same bytes. No CLIP runs.
"""

from collections.abc import Set
from contextlib import ExitStack

import numpy as np
import polars as pl

from d2st.cache.codec import Calibration, as_tensor, decode
from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.ledger import rows_among
from d2st.cache.level import Level
from d2st.cache.moments import Moments, add_frames, counted_digest, moments_bytes, moments_name, read_moments
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store, read_calibration

__all__ = ["add_to_moments", "refresh_all_statistics", "refresh_statistics", "statistics_bytes"]

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


def statistics_bytes(level: Level, samples: pl.DataFrame) -> bytes:
    """The statistics file of a shard, computed from its token maps; the same bytes as a build writes.

    Args:
        samples: the ledger rows whose frames are counted, all of them cached.

    Raises:
        StoreError: token maps or the calibration are missing or damaged.
    """
    spans = [np.arange(start, start + frames) for start, frames in samples.sort("start").select("start", "frames").iter_rows()]
    rows = np.concatenate([np.zeros(0, np.int64), *spans])
    int8 = level.config["dtype"] == "int8"
    kinds = ("maps", "scales", "cls") if int8 else ("maps", "cls")
    calibration: Calibration = read_calibration(level) if int8 and len(rows) else {}
    moments: dict[str, Moments] = {}
    for layer in level.config["layers"] if len(rows) else ():
        with ExitStack() as stack:
            readers = {kind: stack.enter_context(ArrayReader(level.array(f"{layer}/{kind}"))) for kind in kinds}
            for begin in range(0, len(rows), READ_FRAMES):
                block = rows[begin : begin + READ_FRAMES]
                arrays = {kind: np.empty((len(block), *reader.frame_shape), reader.dtype) for kind, reader in readers.items()}
                for kind, reader in readers.items():
                    reader.read(block, arrays[kind])
                add_to_moments(moments, layer, arrays, calibration)
    return moments_bytes(dict(sorted(moments.items())), counted=counted_digest(samples["sample_id"]))


def refresh_all_statistics(store: Store, counted: Set[str]) -> int:
    """`refresh_statistics` of every level of every token set."""
    levels = [level for name in store.token_sets() for level in store.token_levels(name)]
    return sum(refresh_statistics(level, counted) for level in levels)


def refresh_statistics(level: Level, counted: Set[str]) -> int:
    """Recompute the statistics of each shard of a tokens level whose counted samples are not those of `counted` any more.

    Returns:
        How many shards that were. Missing and damaged files are made anew too.

    Raises:
        StoreError: as `statistics_bytes` does.
    """
    made = 0
    for part in level.parts():
        samples = rows_among(part.rows.filter(pl.col("reason").is_null()), counted)
        path = level.path / moments_name(part.shard)
        try:
            if read_moments(path)[1] == counted_digest(samples["sample_id"]):
                continue
        except StoreError:  # derived: made anew below
            pass
        write_atomic(path, statistics_bytes(level, samples))
        made += 1
    return made
