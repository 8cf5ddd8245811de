"""The calibration of an int8 token set: by which mean and deviation each channel is quantised, settled before the first shard and never
after.

It is a pure function of the manifest and the media: evenly chosen training frames of the first planned shards, whichever builder
made their crops. The file is created exclusively, so builders that come to it at once all quantise by the same one.

A view takes the calibration of the main set where the two are made alike, and else one of the crops as they are: maps of several views
are mixed in one batch, which is decoded by one calibration. Frames that lie further out get a larger scale, and nothing is cut off.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import polars as pl

from d2st.cache.codec import Calibration, calibration_bytes
from d2st.cache.files import create_exclusive
from d2st.cache.level import Level
from d2st.cache.reader import ArrayReader
from d2st.cache.store import CALIBRATION, MAIN, Store, read_calibration
from d2st.cache.views import VIEW, without_view
from d2st.pipeline.clip import Encoder
from d2st.pipeline.clip.encode import CALIBRATION_FRAMES

__all__ = ["calibrate_first"]

ENOUGH = CALIBRATION_FRAMES // 2  # training frames; with fewer in the first shard the second one is taken too


def calibrate_first(
    level: Level,
    encoder: Encoder,
    crops: Level,
    *,
    shards: Sequence[int],
    counted: Collection[str],
    make_crops: Callable[[list[int]], int],
) -> int:
    """Give the encoder the calibration of an int8 level, which is made if the level has none. Does nothing for other dtypes.

    Args:
        shards: all planned ones, in order.
        counted: samples of the training split.
        make_crops: makes the missing crops of these shards, or waits for them.

    Returns:
        How many shards of crops were made on the way.
    """
    made = 0
    if encoder.dtype == "int8" and VIEW in level.config and (taken := _of_main(level, encoder)):
        create_exclusive(level.path / CALIBRATION, calibration_bytes(taken))
    if _calibrated(level, encoder):
        return made
    for count in range(1, len(shards) + 1):
        first = list(shards[:count])
        made += make_crops(first)
        rows = _wanted_rows(crops, first, counted, last=count == len(shards))
        if _calibrated(level, encoder):  # another builder was faster
            break
        if rows is not None:
            create_exclusive(level.path / CALIBRATION, calibration_bytes(encoder.calibrate(_read(crops, rows))))
            _calibrated(level, encoder)  # by what the store keeps, whoever made it
            break
    return made


def _calibrated(level: Level, encoder: Encoder) -> bool:
    """Whether the encoder is ready for this level: it needs no calibration, or the level has one, which it is given."""
    if encoder.dtype != "int8":
        return True
    if not (level.path / CALIBRATION).exists():
        return False
    encoder.calibration = read_calibration(level)
    return True


def _of_main(view: Level, encoder: Encoder) -> Calibration:
    """The calibration of the main set, if it is made as the view is and has these layers; else nothing."""
    store = Store.open(view.store)
    if MAIN not in store.token_sets():
        return {}
    main = store.tokens
    alike = without_view(main.config) == without_view(view.config)
    if not alike or not set(encoder.layers) <= set(main.layers):
        return {}
    return {layer: main.calibration[layer] for layer in encoder.layers}


def _wanted_rows(crops: Level, shards: Sequence[int], counted: Collection[str], *, last: bool) -> np.ndarray | None:
    """Rows of the flat crops array to calibrate by, sorted; None when more shards are needed, or (`last`) when there is no frame."""
    training, others = [], []
    for shard in shards:
        cached = crops.part(shard).rows.filter(pl.col("reason").is_null()).sort("start")
        for sample, start, frames in cached.select("sample_id", "start", "frames").iter_rows():
            (training if sample in counted else others).append(np.arange(start, start + frames))
    if sum(map(len, training)) < ENOUGH and not last and (len(shards) < 2 or not training):
        return None
    if not (training or others):
        return None
    rows = np.concatenate(training or others)
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION_FRAMES)).round().astype(np.int64)]


def _read(crops: Level, rows: np.ndarray) -> np.ndarray:
    """Crops (n,S,S,3) uint8."""
    with ArrayReader(crops.array("frames")) as reader:
        images = np.empty((len(rows), *reader.frame_shape), np.uint8)
        reader.read(rows, images)
    return images
