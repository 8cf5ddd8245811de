"""New splits for a manifest: by identity, so that nobody is in two of them."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from d2st.cache.errors import UsageError
from d2st.pipeline.manifest.schema import SCHEMA, SPLITS
from d2st.pipeline.manifest.split import assign_splits, connected

__all__ = ["resplit"]


def resplit(manifest: pl.DataFrame, *, shares: Mapping[str, float], seed: int = 1, keep: Sequence[str] = ()) -> pl.DataFrame:
    """The manifest with new splits. Samples that share an identity, a video or their bytes stay together; real, fake and mixed groups are
    dealt out separately.

    Args:
        shares: split -> its share of the samples, such as {"train": 70, "val": 15, "test": 15}; a split that is left out gets none.
        seed: another one gives other splits.
        keep: splits whose samples stay where they are, and draw everything that is connected with them along.

    Raises:
        UsageError: an unknown split, or shares that make no sense.
    """
    if unknown := [split for split in (*shares, *keep) if split not in SPLITS]:
        raise UsageError(f"there is no split {unknown[0]!r}", fix=f"Splits are {', '.join(SPLITS)}")
    if both := sorted(shares.keys() & set(keep)):
        raise UsageError(f"{both[0]} is to be kept and to be filled", fix="Do one of both")
    if not shares or not all(0 < share < math.inf for share in shares.values()):
        raise UsageError(
            "no split is left that the samples could go to", fix="Give a share above 0 to a split that is not kept"
        )
    total = sum(shares.values())
    ordered = tuple(sorted(((split, share / total) for split, share in shares.items()), key=lambda pair: -pair[1]))
    rows = manifest.sort("sample_id")
    keys = [
        (*(("identity", name) for name in who), ("video", video), ("bytes", copy or own))
        for who, video, copy, own in rows.select("identity", "video_id", "duplicate_of", "sample_id").iter_rows()
    ]
    known = [split if split in keep else None for split in rows["split"].cast(pl.String)]
    names = [min(who) for who in rows["identity"]]
    made = assign_splits(connected(keys), names, rows["label"].to_list(), known, shares=ordered, seed=seed)
    return rows.with_columns(pl.Series("split", made, dtype=SCHEMA["split"]))
