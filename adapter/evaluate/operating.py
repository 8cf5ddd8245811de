"""From validation scores to decisions: a temperature and a threshold per kind, small enough to travel in every checkpoint.

What is kept is the validation split's logits themselves, sorted, so that any false positive rate can be asked for later without a store.
The one decision: what rounding and thinning lose is lost against the detector. Real logits are rounded up and thinned to the upper end of
each bin, fakes down and to the lower end, so the FPR on validation is never above, and the TPR never below, what is said here.

A file is called fake when its logit is strictly above the threshold. Values count groups of `video_id`, whose logit is the mean of their
samples'. With n real groups no rate below 1/n can be measured; who asks for one gets the highest real logit, and is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.calibration import fit_temperature, sigmoid
from d2st.adapter.evaluate.groups import with_two_kinds
from d2st.adapter.evaluate.metrics import Array
from d2st.cache.errors import ConfigError

__all__ = ["Operating", "Threshold", "operating_points"]

DECIMALS = 6
KEPT = 2_000  # logits of a class and kind
POOLED = "all"
KINDS = {"image": "image", "video": "video", "frames": "video"}  # a folder of frames is a video


def operating_points(validation: pl.DataFrame) -> dict[str, Any]:
    """What a checkpoint keeps of its validation split, as JSON values: {"image" | "video" | "all": points}.

    Args:
        validation: columns video_id, kind, label, logit, one row a sample.

    Returns:
        points = {"temperature": float or None, "reason": str or None, "real": [logits], "fake": [logits], "n_real": int, "n_fake": int},
        logits rising, n counting groups. `temperature` is None for the `reason` given. "all" pools both kinds.
    """
    table = with_two_kinds(validation).select("video_id", "kind", "label", "logit")
    scopes = {kind: table.filter(pl.col("kind") == kind) for kind in ("image", "video")} | {POOLED: table}
    return {name: _points(rows) for name, rows in scopes.items() if not rows.is_empty()}


def _points(rows: pl.DataFrame) -> dict[str, Any]:
    grouped = rows.sort("video_id", "logit").group_by("video_id", maintain_order=True)
    groups = grouped.agg(pl.col("label").first(), pl.col("logit").mean())
    real, fake = (np.sort(groups.filter(pl.col("label") == label)["logit"].to_numpy()) for label in (0, 1))
    temperature: float | None = None
    reason: str | None = None
    try:
        temperature = fit_temperature(rows["label"].to_numpy(), rows["logit"].to_numpy())
    except ValueError as error:
        reason = str(error)
    return {
        "temperature": temperature,
        "reason": reason,
        "real": _thinned(real, upwards=True),
        "fake": _thinned(fake, upwards=False),
        "n_real": real.size,
        "n_fake": fake.size,
    }


def _thinned(rising: Array, *, upwards: bool) -> list[float]:
    """At most `KEPT` of (N,) values: the upper (or lower) end of each of `KEPT` bins of equal count, rounded away in the same direction."""
    if not upwards:
        return [-value for value in reversed(_thinned(-rising[::-1], upwards=True))]
    if rising.size > KEPT:
        rising = rising[-(-np.arange(1, KEPT + 1) * rising.size // KEPT) - 1]
    rounded = np.ceil(rising * 10**DECIMALS) / 10**DECIMALS
    return np.maximum(rounded, rising).tolist()  # the division may have rounded down


@dataclass(frozen=True)
class Threshold:
    """A place to cut, and what validation says of it.

    Attributes:
        logit: above it is fake.
        fpr, tpr: shares of validation's `n_real` and `n_fake` groups above it; None where there are none.
        note: what the user should know, or None.
    """

    logit: float
    fpr: float | None
    tpr: float | None
    n_real: int
    n_fake: int
    note: str | None


@dataclass(frozen=True)
class Operating:
    """Thresholds and probabilities of one checkpoint; `points` as `operating_points` made them, empty for a checkpoint without."""

    points: Mapping[str, Any]

    def known(self, kind: str) -> bool:
        """Whether there is an operating point for files of `kind` (image, video, frames)."""
        return self._scope(kind) is not None

    def temperature(self, kind: str) -> float:
        """What logits of `kind` are divided by; 1 where none was fitted."""
        for name in (KINDS[kind], POOLED):
            if (value := self.points.get(name, {}).get("temperature")) is not None:
                return value
        return 1.0

    def probability(self, kind: str, logit: float) -> float:
        """Calibrated P(fake) = sigmoid(logit / temperature), 0..1."""
        return float(sigmoid(np.float64(logit / self.temperature(kind))))

    def threshold(self, kind: str, fpr: float | None = None) -> Threshold:
        """Where to cut files of `kind`.

        Args:
            fpr: the lowest threshold whose FPR on validation is at most this, in (0, 1); by default the point where FPR and FNR are equal.

        Raises:
            ConfigError: `fpr` is no rate, or there is no validation to choose it on.
        """
        if fpr is not None and not 0 < fpr < 1:
            raise ConfigError(f"a false positive rate lies between 0 and 1, got {fpr:g}", fix="Give one such as 0.01")
        scope = self._scope(kind)
        if scope is None:
            if fpr is not None:
                raise ConfigError(
                    f"this checkpoint knows no validation scores of {KINDS[kind]}s, so no threshold can be chosen for FPR {fpr:g}",
                    fix="Train again with this d2st and a validation split that has both classes, or leave --fpr out",
                )
            return Threshold(0.0, None, None, 0, 0, "no operating point is stored: a raw score above 0.5 is called fake")
        points = self.points[scope]
        real, fake = np.array(points["real"]), np.array(points["fake"])
        cut = _equal_error(real, fake) if fpr is None else _at_most(real, fpr)
        notes = []
        if scope != KINDS[kind]:
            notes.append(f"validation lacks real or fake {KINDS[kind]}s: the threshold comes from all of its samples")
        if fpr is not None and fpr * points["n_real"] < 1:
            n = points["n_real"]
            lowest = f"validation has {n} real {_noun(scope)}, so no rate below {1 / n:.2g} can be measured"
            notes.append(f"{lowest}: the threshold is at the highest real score")
        return Threshold(
            logit=cut,
            fpr=float(np.mean(real > cut)),
            tpr=float(np.mean(fake > cut)),
            n_real=points["n_real"],
            n_fake=points["n_fake"],
            note="; ".join(notes) or None,
        )

    def _scope(self, kind: str) -> str | None:
        """The points that files of `kind` are judged by: their own, else those of all, if there are both classes."""
        usable = (name for name in (KINDS[kind], POOLED) if name in self.points)
        return next((name for name in usable if self.points[name]["real"] and self.points[name]["fake"]), None)


def _noun(scope: str) -> str:
    return "samples" if scope == POOLED else f"{scope}s"


def _at_most(real: Array, fpr: float) -> float:
    """The lowest of the rising `real` logits (n,) above which a share of at most `fpr` lies."""
    above = real.size - np.searchsorted(real, real, side="right")  # (n,), falls
    return float(real[np.argmax(above / real.size <= fpr)])


def _equal_error(real: Array, fake: Array) -> float:
    """The cut where FPR and FNR differ least; of several the one with fewer errors, and the middle of where that holds."""
    values = np.unique(np.concatenate([real, fake]))  # (U,)
    cuts = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])  # (U+1,)
    fp = real.size - np.searchsorted(real, cuts, side="right")
    fn = np.searchsorted(fake, cuts, side="right")
    fp, fn = fp * fake.size, fn * real.size  # rates over one denominator: whole numbers have no ties by rounding
    cost = np.abs(fp - fn) * (2 * real.size * fake.size + 1) + fp + fn
    best = np.flatnonzero(cost == cost.min())
    return float(cuts[best[best.size // 2]])
