"""Which scores are measured together: videos by `video_id`, a manipulation with the reals of its own data set and kind.

`video_id` alone says what a video is. Grouping by folder name, as the field's main benchmark does, makes 280 videos of the 700 in
FaceForensics++'s test split and moves its AUC by more than a point.
"""

from collections.abc import Iterator

import polars as pl

from d2st.cache.errors import ManifestError

__all__ = ["by_video", "check_groups", "parts", "per_method", "with_two_kinds"]


def check_groups(samples: pl.DataFrame) -> None:
    """Raise ManifestError if a `video_id` holds both real and fake samples: it then has no label, and no honest video AUC."""
    mixed = samples.group_by("video_id").agg(pl.col("label").n_unique()).filter(pl.col("label") > 1)["video_id"].sort()
    if len(mixed):
        raise ManifestError(
            f"{len(mixed)} video_id values hold both real and fake samples, among them {', '.join(mixed.head(3))}",
            fix="Give each source file, each manipulation of it and each real one, a video_id of its own",
        )


def with_two_kinds(predictions: pl.DataFrame) -> pl.DataFrame:
    """`kind` as a plain string, "image" or "video": a folder of frames is a video."""
    return predictions.with_columns(kind=pl.col("kind").cast(pl.String).replace("frames", "video"))


def by_video(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a `video_id`, sorted by it: `label`, and as `score` (and `calibrated`, where there is such a column) the mean over all
    samples that share it."""
    # sorted first: the order of a sum is then the same whatever the order of the rows
    grouped = rows.sort("video_id", "sample_id").group_by("video_id", maintain_order=True)
    return grouped.agg(pl.col("label").first(), pl.col("^(score|calibrated)$").mean())


def parts(rows: pl.DataFrame, column: str) -> Iterator[tuple[str, pl.DataFrame]]:
    """(value, its rows) for each value of `column`, sorted."""
    for (value,), part in sorted(rows.partition_by(column, as_dict=True).items()):
        yield str(value), part


def per_method(rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """(manipulation, its fakes and all reals) for each manipulation in the rows of one data set and kind."""
    real = rows.filter(pl.col("label") == 0)
    for method, fake in parts(rows.filter(pl.col("label") == 1), "method"):
        yield method, pl.concat([real, fake])
