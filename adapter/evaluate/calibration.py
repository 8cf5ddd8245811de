"""Are scores probabilities? Reliability bins, expected calibration error, and temperature scaling (Guo et al., ICML 2017).

A score is P(fake), and the question is asked of it directly: of the samples scored 0.8, are 80 % fake? (Guo et al. ask it of the confidence
in the class that was named, which hides a detector that says fake too readily and real too rarely.)

The decision that shaped it: temperatures come from the validation split alone, and one that would not, because samples or videos are in
both, is refused and told as a reason, not as a number. The same for a validation split that has no best temperature. Images and videos
have one each, as in `operating`, so that what is measured here is the P(fake) that `d2st predict` gives.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from d2st.adapter.evaluate.groups import with_two_kinds
from d2st.adapter.evaluate.metrics import Array, Tally, ratio

__all__ = [
    "BINS",
    "FITTED_ON",
    "Temperatures",
    "ece",
    "fit_temperature",
    "reliability_bins",
    "rescale",
    "sigmoid",
    "validation_temperatures",
]

BINS = 15  # of equal width, (0, 1/15], (1/15, 2/15], ...; 0 itself is in the first. As in Guo et al.
FITTED_ON = "val"
LOWEST, HIGHEST = 1e-3, 1e3  # temperatures that are believed
HALVINGS = 80  # of the interval between them: more than a double can tell apart


@dataclass(frozen=True)
class Temperatures:
    """What a detector's logits are to be divided by, by kind ("image", "video"), fitted on `samples` of `datasets`; a kind that has none
    is not among the `values`, for the `reason` given."""

    values: Mapping[str, float]
    samples: int
    datasets: tuple[str, ...]
    reason: str | None


def ece(counts: Tally) -> Array:
    """Expected calibration error (...), 0 to 1: over `BINS` bins of the score, |share of fakes - mean score|, weighted by samples.

    Defined for one class; nan for no samples, and for scores outside [0, 1].
    """
    if counts.scores.size and not 0 <= counts.scores[0] <= counts.scores[-1] <= 1:
        return np.full(counts.real.shape[:-1], np.nan)
    if not counts.scores.size:
        return ratio(counts.real.sum(-1), counts.real.sum(-1))
    begins = np.flatnonzero(np.diff(_bin_of(counts.scores), prepend=-1))  # where each bin that is used begins
    both = counts.real + counts.fake  # (..., U)
    # n * |fakes / n - scores / n| needs no division: the bins that a resample leaves empty add 0
    gaps = np.abs(np.add.reduceat(counts.fake - both * counts.scores, begins, axis=-1)).sum(-1)
    return ratio(gaps, both.sum(-1))


def reliability_bins(counts: Tally) -> list[dict[str, Any]]:
    """The bins of `ece`, of one tally: [{"low", "high", "count", "mean_score", "share_fake"}], the last two None where there is nothing."""
    bins, both = _bin_of(counts.scores), counts.real + counts.fake  # (U,)
    made = []
    for number in range(BINS):
        inside = bins == number
        n = float(both[inside].sum())
        scored, fake = float((both * counts.scores)[inside].sum()), float(counts.fake[inside].sum())
        means = {"mean_score": scored / n, "share_fake": fake / n} if n else {"mean_score": None, "share_fake": None}
        made.append({"low": number / BINS, "high": (number + 1) / BINS, "count": int(n), **means})
    return made


def validation_temperatures(
    validation: pl.DataFrame | None, scored: pl.DataFrame, *, trained_on: Collection[str] = ()
) -> Temperatures:
    """The temperatures for the predictions `scored`, fitted on the predictions `validation`, which must be the val split and nothing else.

    Each kind that was scored has that of validation's samples of this kind, or of them all where these have none (`fit_temperature`).
    There are none, with the reason, where there is no validation, where it shares a sample or a video with what is scored, and where it
    holds a sample of `trained_on`, whose ids the detector has learnt from.

    Raises:
        ValueError: `validation` holds samples of another split.
    """
    if validation is None or validation.is_empty():
        same = not scored.is_empty() and bool((scored["split"] == FITTED_ON).all())
        reason = (
            f"none is fitted on what is scored, here the {FITTED_ON} split" if same else "this detector has scored no val split"
        )
        return Temperatures({}, 0, (), reason)
    if not (validation["split"] == FITTED_ON).all():
        raise ValueError(f"a temperature is fitted on the {FITTED_ON} split alone, got {sorted(set(validation['split']))}")
    size, datasets = len(validation), tuple(sorted(set(validation["dataset"])))
    if shared := max(int(scored[name].is_in(validation[name].to_list()).sum()) for name in ("sample_id", "video_id")):
        reason = f"{shared} of the samples scored here are, or share a video with, those that it would be fitted on"
        return Temperatures({}, size, datasets, reason)
    if learnt := int(validation["sample_id"].is_in(list(trained_on)).sum()):
        reason = (
            f"the detector was trained on {learnt} of the {size} samples that it would be fitted on: its val split was another"
        )
        return Temperatures({}, size, datasets, reason)
    values: dict[str, float] = {}
    lacking: dict[str, str] = {}
    every = with_two_kinds(validation)
    for kind in sorted(set(with_two_kinds(scored)["kind"])):
        for rows in (every, every.filter(pl.col("kind") == kind)):  # the kind's own is the last word
            try:
                values[kind] = fit_temperature(rows["label"].to_numpy(), rows["logit"].to_numpy())
            except ValueError as error:
                lacking[kind] = f"the validation split has none for {kind}s: {error}"
    reasons = [reason for kind, reason in lacking.items() if kind not in values]
    return Temperatures(values, size, datasets, "; ".join(reasons) or None)


def fit_temperature(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """The T > 0 for which sigmoid(logits / T) has the smallest negative log-likelihood; labels (N,) of 0 or 1, logits (N,).

    In 1 / T that is convex, and its derivative is found to change sign by bisection: no step size, no start, the same to the last bit.
    Between 0.001 and 1,000.

    Raises:
        ValueError: there is none: one class alone; all logits on their right side of 0 (ever smaller T fit ever better); or logits that
            tell no more, or less, than chance (ever larger T do).
    """
    y, z = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if not np.isfinite(z).all():
        raise ValueError("a logit is NaN or infinite")
    if not (0 < y.sum() < y.size):
        raise ValueError("it holds one class alone")

    def slope(temperature: float) -> float:
        """Of the NLL in 1 / T: the mean of (sigmoid(z / T) - y) z."""
        return float(np.mean((sigmoid(z / temperature) - y) * z))

    low, high = LOWEST, HIGHEST  # the slope in 1 / T falls as T rises
    if slope(low) <= 0:
        raise ValueError("its classes lie on either side of logit 0, and the colder, the better it looks")
    if slope(high) >= 0:
        raise ValueError("its logits tell fake from real no better than chance")
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


def rescale(predictions: pl.DataFrame, temperatures: Mapping[str, float]) -> pl.DataFrame:
    """Predictions (`with_two_kinds`) with `score` and `frame_scores` as the logits divided by their kind's temperature give them; null
    for a kind that has none. `logit` stays what it was, and so does a frame score that rounding had made 0 or 1.
    """
    logits = pl.element().log() - (1 - pl.element()).log()  # -inf and inf at 0 and 1
    none = pl.lit(None, pl.Float64)
    score, frames = none, pl.col("frame_scores").list.eval(pl.when(pl.element().is_null()).then(none))
    for kind, temperature in temperatures.items():
        own = pl.when(pl.col("kind") == kind)
        score = own.then(1 / (1 + (-pl.col("logit") / temperature).exp())).otherwise(score)
        frames = own.then(pl.col("frame_scores").list.eval(1 / (1 + (-logits / temperature).exp()))).otherwise(frames)
    return predictions.with_columns(score=score, frame_scores=frames)


def _bin_of(scores: Array) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores)


def sigmoid(logits: Array) -> Array:
    """P from log-odds (...), 0 to 1."""
    return (1 + np.tanh(logits / 2)) / 2  # no overflow at either end
