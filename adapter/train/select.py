"""Which cached samples a stage trains and validates on, and every reason not to start at all.

Test rows never leave this module: only train and val are selected, and the test split is looked at for one purpose, the leakage guard.
All guards run before a network is built, so a mistake costs a second and not an epoch.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from d2st.cache.errors import ConfigError, ManifestError

__all__ = ["Rows", "Selection", "select_samples", "to_rows"]

MIN_OF_LABEL = 2  # training samples of each label without which nothing can be learnt


@dataclass(frozen=True)
class Rows:
    """N samples as plain arrays, the trainer's view of a manifest.

    ids: N sample ids. start, frames (N,) int64: first row in the flat cache and how many rows follow. label (N,) int64, 1 fake.
    is_video (N,) bool; frame folders are videos.
    """

    ids: tuple[str, ...]
    start: np.ndarray
    frames: np.ndarray
    label: np.ndarray
    is_video: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Samples of the train and the val split, sorted by sample_id, with the columns of `Store.samples()`; labels are those to train on."""

    train: pl.DataFrame
    val: pl.DataFrame


def to_rows(samples: pl.DataFrame) -> Rows:
    """Plain arrays of a frame with the columns of `Store.samples()`."""
    return Rows(
        ids=tuple(samples["sample_id"]),
        start=samples["start"].cast(pl.Int64).to_numpy(),
        frames=samples["frames_cached"].cast(pl.Int64).to_numpy(),
        label=samples["label"].cast(pl.Int64).to_numpy(),
        is_video=samples.select(_is_video()).to_series().to_numpy(),
    )


def select_samples(
    samples: pl.DataFrame,
    *,
    kinds: Sequence[str],
    max_samples: int = 0,
    seed: int = 0,
    shuffle_labels: bool = False,
    allow_identity_overlap: bool = False,
    need_all_kinds: bool = False,
) -> Selection:
    """Choose the rows of a stage.

    Args:
        samples: what `Store.samples()` returns.
        kinds: "image", "video" or both; frame folders are videos.
        max_samples: training samples to keep, 0 for all; the same seed keeps the same ones, and a larger number only adds to them.
        shuffle_labels: the sanity control. Labels of the train *and* the val split are permuted among the videos of each kind: val too,
            because choosing the best epoch by true labels would teach them after all.
        allow_identity_overlap: do not refuse identities that appear in two splits.
        need_all_kinds: refuse when a kind is missing or has one label alone (stage 3 can't align what is not there).

    Raises:
        ConfigError: a split is missing, has one class, or is too small.
        ManifestError: an identity appears in two splits.
    """
    if not allow_identity_overlap:
        refuse_identity_overlap(samples)
    wanted = samples.filter(pl.col("frames_cached") > 0, _is_kind(kinds)).sort("sample_id")
    train, val = (wanted.filter(pl.col("split").cast(pl.String) == split) for split in ("train", "val"))
    for split, part in (("train", train), ("val", val)):
        _refuse_unusable(part, split=split, kinds=kinds, samples=samples)
    if need_all_kinds:
        for kind in kinds:
            part = train.filter(_is_kind([kind]))
            _refuse_unusable(part, split="train", kinds=[kind], samples=samples)
    train = _keep(train, max_samples, seed=seed)
    _refuse_unusable(train, split="train", kinds=kinds, samples=samples)
    if shuffle_labels:
        train, val = _shuffle_labels(train, seed=seed), _shuffle_labels(val, seed=seed + 1)
    return Selection(train=train, val=val)


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


def _refuse_unusable(part: pl.DataFrame, *, split: str, kinds: Sequence[str], samples: pl.DataFrame) -> None:
    what = " or ".join(kinds)
    if part.is_empty():
        counts = samples.group_by(pl.col("split").cast(pl.String), pl.col("kind").cast(pl.String)).len().sort("split", "kind")
        there = ", ".join(f"{n} {split} {kind}" for split, kind, n in counts.rows()) or "nothing"
        raise ConfigError(
            f"the cache has no {what} in the {split} split; it has {there}", fix="Assign splits in the manifest and build again"
        )
    counts = {int(label): n for label, n in part["label"].value_counts().rows()}
    for label, name in ((0, "real"), (1, "fake")):
        least = MIN_OF_LABEL if split == "train" else 1
        if counts.get(label, 0) < least:
            raise ConfigError(
                f"the {split} split has {counts.get(label, 0)} {name} among its {part.height} samples ({what}); it needs {least} or more",
                fix="Training and validation both need real and fake samples: check labels and splits with `d2st manifest show`",
            )


def _keep(train: pl.DataFrame, limit: int, *, seed: int) -> pl.DataFrame:
    """At most `limit` rows, in proportion to (label, kind); within a stratum those whose hash with the seed is smallest."""
    if limit == 0 or limit >= train.height:
        return train
    ranks = [hashlib.blake2b(f"{seed}\0{sample_id}".encode(), digest_size=8).hexdigest() for sample_id in train["sample_id"]]
    strata = ["label", _is_video().alias("is_video")]
    ranked = train.with_columns(pl.Series("luck", ranks)).with_columns(
        place=pl.col("luck").rank("ordinal").over(strata), of=pl.len().over(strata)
    )
    # the k-th of n in its stratum stands at (k - 1/2) / n: taking the lowest takes the same share of each
    share = (pl.col("place") - 0.5) / pl.col("of")
    return ranked.sort(share, "sample_id").head(limit).drop("luck", "place", "of").sort("sample_id")


def _shuffle_labels(part: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Permute labels among video groups of one kind; all samples of a video_id keep one label."""
    groups = part.group_by("video_id").agg(pl.col("label").first(), _is_video().first().alias("is_video")).sort("video_id")
    rng = np.random.default_rng([seed, 0x5EED])
    labels = groups["label"].to_numpy().copy()
    for kind in (False, True):
        at = np.flatnonzero(groups["is_video"].to_numpy() == kind)
        labels[at] = labels[rng.permutation(at)]
    permuted = groups.select("video_id", pl.Series("label", labels, dtype=part.schema["label"]))
    return part.drop("label").join(permuted, on="video_id", how="left", maintain_order="left").select(part.columns)


def _is_video() -> pl.Expr:
    return pl.col("kind").cast(pl.String) != "image"


def _is_kind(kinds: Iterable[str]) -> pl.Expr:
    names = [name for kind in kinds for name in (("video", "frames") if kind == "video" else (kind,))]
    return pl.col("kind").cast(pl.String).is_in(names)
