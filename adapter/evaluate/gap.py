"""The modality gap: how differently a detector embeds images and videos, measured in three ways that fail differently.

- Distance of the centroids of a class: does the one kind lie beside the other? It counts all directions alike.
- A linear probe that must tell the kinds apart: is there any direction at all that gives the kind away? 0.5 is none, 1.0 is a sure sign.
- Transfer: does a boundary between real and fake that was learnt on one kind hold for the other? This is what a user feels.

The decision that shaped it: none of them moves unless the kinds move against each other. All are invariant to scale, rotation and shift of
the embeddings. A plain distance falls when a network shrinks its embeddings, and the cosine distance when it adds one constant vector to
all of them; so the distance of centroids is told in units of the spread around them.
"""

import numpy as np
import polars as pl

from d2st.adapter.evaluate.embed import Embedded, embed_samples
from d2st.adapter.evaluate.groups import by_video, with_two_kinds
from d2st.adapter.evaluate.logistic import fit_logistic
from d2st.adapter.evaluate.metrics import binary_auc, tally
from d2st.adapter.nets.detector import Detector
from d2st.cache import TokenLoader

__all__ = ["MEASURES", "choose", "gap_between", "modality_gap"]

MEASURES = ("centroid_real", "centroid_fake", "probe_accuracy", "transfer_image_to_video", "transfer_video_to_image")
MOST = 250  # samples of a kind and label that are looked at: more would cost an epoch of reading and hardly move a figure
FOLDS = 5
PREDICTIONS = 1000  # of the probe: few samples are dealt out to folds again, up to ten times, until there are so many
KINDS = (False, True)  # is_video
LABELS = (0, 1)


def modality_gap(
    detector: Detector, source: TokenLoader, train: pl.DataFrame, val: pl.DataFrame, *, clip_frames: int, seed: int
) -> dict[str, float | None]:
    """How differently `detector` embeds the images and the videos of `val`.

    Args:
        detector: embeds in eval mode; its own mode is put back afterwards.
        source: streams batches, as a `TokenLoader` does.
        train, val: samples as `Store.samples` gives them; of each, up to 250 of a kind and label are looked at, chosen by `seed`.
            `train` serves to train the heads of the transfer alone.
        clip_frames: T of a video's clip; images are clips of one frame.

    Returns:
        What `gap_between` gives.

    Raises:
        RunError: an embedding is NaN or infinite.
    """
    if with_two_kinds(val)["kind"].n_unique() < len(KINDS):
        return dict.fromkeys(MEASURES)
    parts = [embed_samples(detector, source, choose(part, seed=seed), clip_frames=clip_frames) for part in (train, val)]
    return gap_between(*parts, seed=seed)


def choose(samples: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Up to `MOST` samples of each kind and label, by `seed`, in the order of sample_id."""
    rng = np.random.default_rng(seed)
    placed = with_two_kinds(samples.sort("sample_id")).with_columns(luck=pl.Series(rng.random(len(samples)), dtype=pl.Float64))
    return placed.filter(pl.col("luck").rank("ordinal").over("kind", "label") <= MOST).drop("luck")


def gap_between(train: Embedded, val: Embedded, *, seed: int) -> dict[str, float | None]:
    """The measures on embeddings of `val`.

    Returns:
        centroid_real, centroid_fake: >= 0, distance of the kinds' centroids in that class, in spreads (`centroid_distance`).
        probe_accuracy: balanced accuracy, 0 to 1, with which a linear probe tells images from videos it has not seen (`probe_accuracy`).
        transfer_image_to_video, transfer_video_to_image: AUC on one kind of `val` of a linear head trained on the other kind of `train`.
        None where there are too few samples to say: a kind or a label is missing.
    """
    found: dict[str, float | None] = {}
    for label, name in zip(LABELS, ("real", "fake"), strict=True):
        images, videos = (val.vectors[(val.label == label) & (val.is_video == kind)] for kind in KINDS)
        found[f"centroid_{name}"] = centroid_distance(images, videos)
    found["probe_accuracy"] = probe_accuracy(val, seed=seed)
    for kind, name in zip(KINDS, ("image_to_video", "video_to_image"), strict=True):
        found[f"transfer_{name}"] = _transfer(train, val, is_video=kind)
    return found


def centroid_distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """Distance of the means of a (N_a, D) and b (N_b, D), in spreads: 1 is as far as a sample typically lies from its own mean.

        d^2 = ( |mean_a - mean_b|^2 - s_a^2 / N_a - s_b^2 / N_b ) / ( (s_a^2 + s_b^2) / 2 ),   s^2 = trace of the unbiased covariance

    The two terms subtracted are what the means of finite samples of one distribution lie apart on average; below 0 it is 0. None with fewer
    than two samples on a side, or no spread at all.
    """
    if min(len(a), len(b)) < 2:
        return None
    spread_a, spread_b = a.var(0, ddof=1).sum(), b.var(0, ddof=1).sum()
    spread = (spread_a + spread_b) / 2
    if not spread > 0:
        return None
    apart = np.square(a.mean(0) - b.mean(0)).sum() - spread_a / len(a) - spread_b / len(b)
    return float(np.sqrt(max(apart, 0.0) / spread))


def probe_accuracy(samples: Embedded, *, seed: int) -> float | None:
    """Mean of the four recalls (image or video, real or fake) of a logistic regression that tells videos from images, cross-validated over
    5 folds of whole groups.

    Counting the labels alike keeps it fair: where videos are more often fake than images, fakeness alone would seem to tell the kind. A
    label that one kind lacks is left out. None when fewer than two groups of a kind and label are there.
    """
    cell = samples.is_video * 2 + samples.label  # (N,)
    labels = [label for label in LABELS if all(np.any(cell == 2 * kind + label) for kind in KINDS)]
    kept = np.isin(samples.label, labels)
    x, y, cell, group = samples.vectors[kept], samples.is_video[kept].astype(np.int64), cell[kept], samples.group[kept]
    fewest = min((len(np.unique(group[cell == one])) for one in np.unique(cell)), default=0)
    if fewest < 2:
        return None
    right, rng = np.zeros(len(x)), np.random.default_rng(seed)
    repeats = min(max(PREDICTIONS // len(x), 1), 10)
    for _ in range(repeats):
        fold = _folds(group, cell, folds=min(FOLDS, fewest), rng=rng)
        for number in np.unique(fold):
            fit, test = fold != number, fold == number
            if len(np.unique(y[fit])) < len(KINDS):  # groups that hold both kinds can leave a fold with one alone
                return None
            right[test] += (_head(x[fit], y[fit], cell[fit])(x[test]) > 0) == (y[test] == 1)
    return float(np.mean([right[cell == one].mean() for one in np.unique(cell)])) / repeats


def _folds(group: np.ndarray, cell: np.ndarray, *, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold (N,) for each sample: groups stay whole, and those of a cell (of their first sample) are dealt out in turn, shuffled."""
    names, first, place = np.unique(group.astype(str), return_index=True, return_inverse=True)
    of_group = np.zeros(len(names), dtype=np.int64)
    dealt = 0
    for one in np.unique(cell):
        members = rng.permutation(np.flatnonzero(cell[first] == one))
        of_group[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return of_group[place]


def _transfer(train: Embedded, val: Embedded, *, is_video: bool) -> float | None:
    """AUC on the other kind of `val`, by video_id, of a linear head that was trained on this kind of `train`."""
    fit, test = train.is_video == is_video, val.is_video != is_video
    if min(len(np.unique(train.label[fit])), len(np.unique(val.label[test]))) < len(LABELS):
        return None
    head = _head(train.vectors[fit], train.label[fit], train.label[fit])
    order = np.arange(test.sum())
    table = {"sample_id": order, "video_id": val.group[test], "label": val.label[test], "score": head(val.vectors[test])}
    videos = by_video(pl.DataFrame(table))
    return float(binary_auc(tally(videos["label"].to_numpy(), videos["score"].to_numpy())))


def _head(x: np.ndarray, y: np.ndarray, cell: np.ndarray):
    """A logistic regression of y (N,) on x (N, D) in which each cell (N,) weighs the same: a function (M, D) -> logits (M,).

    One shift and one scale for all channels: the penalty then means the same whatever the scale, and rotations change nothing.
    """
    centre = x.mean(0)
    scale = np.sqrt(np.square(x - centre).mean()) or 1.0
    _, place, counts = np.unique(cell, return_inverse=True, return_counts=True)
    w, b = fit_logistic((x - centre) / scale, y, len(x) / (len(counts) * counts[place]))
    return lambda new: (new - centre) / scale @ w + b
