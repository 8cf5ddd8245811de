"""Face crops of the store as small WebP data URIs, one frame a sample."""

import base64
import io
from collections.abc import Mapping

import numpy as np
import polars as pl
from PIL import Image

from d2st.adapter.rows import clip_rows
from d2st.cache.errors import StoreError
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store

__all__ = ["THUMB_PX", "thumbnails"]

THUMB_PX = 112
QUALITY = 72  # of WebP: about 2.5 kB a face


def thumbnails(store: Store, wanted: Mapping[str, tuple[int, int]]) -> tuple[dict[str, str], str | None]:
    """One picture of each wanted sample that the store has: sample_id -> data URI, and why there are fewer than could be, or None.

    Args:
        wanted: sample_id -> (number of the frame, how many frames were scored); frames are those of `rows.clip_rows`.
    """
    try:
        crops = store.crops
        rows = store.current(crops).filter(pl.col("reason").is_null() & pl.col("sample_id").is_in(list(wanted)))
        made = {}
        with ArrayReader(crops.array("frames")) as reader:
            for sample, start, cached in rows.select("sample_id", "start", "frames").sort("start").iter_rows():
                frame, scored = wanted[sample]
                chosen = clip_rows(start, cached, scored)
                crop = np.empty((1, *reader.frame_shape), reader.dtype)  # (1, S, S, 3) uint8
                reader.read([chosen[min(frame, len(chosen) - 1)]], crop)
                made[sample] = _data_uri(crop[0])
    except (StoreError, OSError) as error:
        return {}, f"the crops of {store.path.name} can't be read ({type(error).__name__})"
    return made, None


def _data_uri(crop: np.ndarray) -> str:
    """(S, S, 3) uint8 -> "data:image/webp;base64,..."."""
    buffer = io.BytesIO()
    Image.fromarray(crop).resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
