"""Why a stage must not start with these samples: each reason is an error that says where and how to mend it, before anything is built."""

from collections.abc import Iterable, Sequence

import polars as pl

from d2st.adapter.train.mix import AXES, LABELS, Shares
from d2st.cache.errors import ConfigError, ManifestError

__all__ = ["is_kind", "is_video", "refuse_identity_overlap", "refuse_left_out", "refuse_unknown_datasets", "refuse_unusable"]

LEAST = {"train": 2, "val": 1}  # samples of each label without which nothing can be learnt or measured


def refuse_identity_overlap(samples: pl.DataFrame) -> None:
    """Raise ManifestError when an identity or a video_id appears in more than one split, the test split included."""
    for column, what in (("identity", "identities"), ("video_id", "videos")):
        pairs = samples.select("dataset", pl.col("split").cast(pl.String), column)
        pairs = pairs.explode(column) if column == "identity" else pairs
        seen = pairs.drop_nulls(column).group_by(column).agg(pl.col("split").unique().sort(), pl.col("dataset").unique().sort())
        crossing = seen.filter(pl.col("split").list.len() > 1).sort(column)
        if crossing.height:
            shown = "; ".join(
                f"{name!r} in {' and '.join(splits)} ({', '.join(datasets)})"
                for name, splits, datasets in crossing.head(3).rows()
            )
            raise ManifestError(
                f"{crossing.height} {what} appear in two splits or more, so scores would be too good to be true: {shown}",
                fix="Split the manifest by identity, or pass --set data.allow_identity_overlap=true if you know why",
            )


def refuse_unusable(part: pl.DataFrame, *, split: str, kinds: Sequence[str], samples: pl.DataFrame) -> None:
    """Raise ConfigError when the samples of a split are none, or lack a label."""
    what = " or ".join(kinds)
    if part.is_empty():
        counts = samples.group_by(pl.col("split").cast(pl.String), pl.col("kind").cast(pl.String)).len().sort("split", "kind")
        there = ", ".join(f"{n} {split} {kind}" for split, kind, n in counts.rows()) or "nothing"
        if samples.is_empty():
            raise ConfigError(
                "the cache holds no sample of the manifest",
                fix="Name the manifest that it was built from, or build with this one",
            )
        raise ConfigError(
            f"the cache has no {what} in the {split} split; it has {there}", fix="Assign splits in the manifest and build again"
        )
    for name, count in _too_few(part, least=LEAST[split]):
        raise ConfigError(
            f"the {split} split has {count} {name} among its {part.height} samples ({what}); it needs {LEAST[split]} or more",
            fix="Training and validation both need real and fake samples: check labels and splits with `d2st manifest show`",
        )


def refuse_unknown_datasets(named: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError when a mix names a data set of which no split has a sample to train on."""
    known = sorted(known)
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise ConfigError(
            f"data.mix.dataset names {', '.join(map(repr, unknown))}, of which the cache has no training samples",
            fix=f"The data sets that it has are {', '.join(map(repr, known))}",
        )


def refuse_left_out(train: pl.DataFrame, *, kinds: Sequence[str], mix: Shares, max_samples: int) -> None:
    """Raise ConfigError when the choice of training samples lost a label that was there before it."""
    for name, count in _too_few(train, least=LEAST["train"]):
        by = [f"data.mix.{axis}" for axis in AXES if mix.get(axis)] + [f"data.max_samples={max_samples}"] * (max_samples > 0)
        raise ConfigError(
            f"{' with '.join(by)} leaves {count} {name} among {train.height} training samples ({' or '.join(kinds)}); "
            f"it takes {LEAST['train']} or more",
            fix="Name more data sets, kinds or labels in data.mix, or raise data.max_samples",
        )


def is_video() -> pl.Expr:
    """Frame folders are videos."""
    return pl.col("kind").cast(pl.String) != "image"


def is_kind(kinds: Iterable[str]) -> pl.Expr:
    """Samples of these kinds, "image" or "video"."""
    names = [name for kind in kinds for name in (("video", "frames") if kind == "video" else (kind,))]
    return pl.col("kind").cast(pl.String).is_in(names)


def _too_few(part: pl.DataFrame, *, least: int) -> list[tuple[str, int]]:
    """The labels of which there are less than `least`, with their counts."""
    counts = {int(label): n for label, n in part["label"].value_counts().rows()}
    return [(name, counts.get(label, 0)) for label, name in enumerate(LABELS) if counts.get(label, 0) < least]
