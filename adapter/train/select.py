"""Which cached samples a stage trains and validates on, and every reason not to start at all.

Test rows never leave this module: only train and val are selected, and the test split is looked at for one purpose, the leakage guard.
All guards run before a network is built, so a mistake costs a second and not an epoch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import polars as pl

from d2st.adapter.train.guards import (
    is_kind,
    is_video,
    refuse_identity_overlap,
    refuse_left_out,
    refuse_unknown_datasets,
    refuse_unusable,
)
from d2st.adapter.train.mix import AXES, LABELS, Shares, stratum_quotas

__all__ = ["Rows", "Selection", "select_samples", "to_rows"]


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
    """Samples of the train and the val split, sorted by sample_id, with the columns of `Store.samples()`; labels are those to train on.

    mix: what the training split has, was asked for and gave: a row for each dataset, kind and label, with available, asked, chosen.
    """

    train: pl.DataFrame
    val: pl.DataFrame
    mix: pl.DataFrame


def to_rows(samples: pl.DataFrame) -> Rows:
    """Plain arrays of a frame with the columns of `Store.samples()`."""
    return Rows(
        ids=tuple(samples["sample_id"]),
        start=samples["start"].cast(pl.Int64).to_numpy(),
        frames=samples["frames_cached"].cast(pl.Int64).to_numpy(),
        label=samples["label"].cast(pl.Int64).to_numpy(),
        is_video=samples.select(is_video()).to_series().to_numpy(),
    )


def select_samples(
    samples: pl.DataFrame,
    *,
    kinds: Sequence[str],
    max_samples: int = 0,
    mix: Shares = MappingProxyType({}),
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
        mix: relative shares of data sets, kinds ("image", "video") and labels ("real", "fake") among the training samples, as
            `stratum_quotas` takes them; where nothing is named, samples come in the proportions of data set, kind and label as they are.
        shuffle_labels: the sanity control. Labels of the train *and* the val split are permuted among the videos of each kind: val too,
            because choosing the best epoch by true labels would teach them after all.
        allow_identity_overlap: do not refuse identities that appear in two splits.
        need_all_kinds: refuse when a kind is missing or has one label alone (stage 3 can't align what is not there).

    Raises:
        ConfigError: a split is missing, has one class, or is too small; a mix leaves a class out, or names an unknown data set.
        ManifestError: an identity appears in two splits.
    """
    if not allow_identity_overlap:
        refuse_identity_overlap(samples)
    there = samples.filter(pl.col("frames_cached") > 0).sort("sample_id")
    train, val = (there.filter(pl.col("split").cast(pl.String) == split, is_kind(kinds)) for split in ("train", "val"))
    needed = [kinds, *([kind] for kind in kinds if need_all_kinds)]
    for some in needed:
        refuse_unusable(train.filter(is_kind(some)), split="train", kinds=some, samples=samples)
    refuse_unusable(val, split="val", kinds=kinds, samples=samples)
    refuse_unknown_datasets(
        mix.get("dataset", ()), there.filter(pl.col("split").cast(pl.String) == "train")["dataset"].unique()
    )
    train, strata = _choose(train, mix=mix, max_samples=max_samples, seed=seed)
    for some in needed:
        refuse_left_out(train.filter(is_kind(some)), kinds=some, mix=mix, max_samples=max_samples)
    if shuffle_labels:
        train, val = _shuffle_labels(train, seed=seed), _shuffle_labels(val, seed=seed + 1)
    return Selection(train=train, val=val, mix=strata)


def _choose(train: pl.DataFrame, *, mix: Shares, max_samples: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of the quotas, and the quotas; within a stratum those rows are taken whose hash with the seed is smallest."""
    kind = pl.when(is_video()).then(pl.lit("video")).otherwise(pl.lit("image"))
    label = pl.when(pl.col("label") == 1).then(pl.lit(LABELS[1])).otherwise(pl.lit(LABELS[0]))
    stratum = train.select("sample_id", pl.col("dataset").cast(pl.String), kind.alias("kind"), label.alias("label"))
    strata = stratum_quotas(
        stratum.group_by(AXES).agg(available=pl.len().cast(pl.Int64)).sort(AXES), mix=mix, max_samples=max_samples
    )
    if strata["chosen"].sum() == train.height:
        return train, strata
    luck = pl.Series("luck", [_luck(seed, sample_id) for sample_id in stratum["sample_id"]], dtype=pl.UInt64)
    place = stratum.with_columns(luck).select(*AXES, place=pl.col("luck").rank("ordinal").over(AXES))
    quota = place.join(strata, on=AXES, how="left", maintain_order="left")["chosen"]
    return train.filter(place["place"] <= quota), strata


def _luck(seed: int, sample_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{sample_id}".encode(), digest_size=8).digest(), "big")


def _shuffle_labels(part: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Permute labels among video groups of one kind; all samples of a video_id keep one label."""
    groups = part.group_by("video_id").agg(pl.col("label").first(), is_video().first().alias("is_video")).sort("video_id")
    rng = np.random.default_rng([seed, 0x5EED])
    labels = groups["label"].to_numpy().copy()
    for kind in (False, True):
        at = np.flatnonzero(groups["is_video"].to_numpy() == kind)
        labels[at] = labels[rng.permutation(at)]
    permuted = groups.select("video_id", pl.Series("label", labels, dtype=part.schema["label"]))
    return part.drop("label").join(permuted, on="video_id", how="left", maintain_order="left").select(part.columns)
