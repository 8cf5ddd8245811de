"""How many training samples each stratum (data set, kind, label) gives, so that the named shares hold.

Shares are fitted to strata by iterative proportional fitting (Deming and Stephan, 1940), which changes what is not named as little as
possible, and become whole numbers by Webster's divisor method: a larger total never takes a sample back, which rounding by largest
remainders can do.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from d2st.cache.errors import ConfigError

__all__ = ["AXES", "LABELS", "Shares", "apportion", "fit_shares", "mix_note", "stratum_quotas"]

AXES = ("dataset", "kind", "label")
LABELS = ("real", "fake")
Shares = Mapping[str, Mapping[str, float]]  # axis -> value -> relative share; an empty axis names nothing

ROUNDS = 2000  # of fitting; tens are enough unless a stratum must vanish
OFF_BY = 0.005  # of a share, from where on a mix counts as impossible
SHOWN = 4  # data sets and strata in a note


def stratum_quotas(strata: pl.DataFrame, *, mix: Shares, max_samples: int) -> pl.DataFrame:
    """Decide how many samples each stratum gives.

    Args:
        strata: `dataset`, `kind`, `label` (strings), `available` (samples), one row a stratum.
        mix: where an axis is named, its unnamed values give nothing; named values that have no sample leave their share to the others.
        max_samples: what the shares are of, or all samples that the mix names where those are fewer; a stratum with less than its quota
            gives all it has, and the others are not raised. 0: the largest selection in which the shares hold, to rounding.

    Returns:
        `strata` with `asked` (its quota) and `chosen` (what it has of that).

    Raises:
        ConfigError: no selection has these shares.
    """
    available = strata["available"].to_numpy().astype(np.float64)
    named = {axis: mix[axis] for axis in AXES if mix.get(axis)}
    shares = fit_shares(available, {axis: (strata[axis].to_numpy(), values) for axis, values in named.items()})
    used = shares > 1e-9  # less is what fitting lets vanish
    if not used.any():
        asked = np.zeros(len(shares), dtype=np.int64)
    elif max_samples == 0:
        most = int(np.min(available[used] / shares[used]) + 0.5)
        asked = np.minimum(apportion(shares, most), strata["available"].to_numpy())
    else:
        asked = apportion(shares, int(min(max_samples, available[used].sum())))
    chosen = np.minimum(asked, strata["available"].to_numpy())
    return strata.with_columns(pl.Series("asked", asked, dtype=pl.Int64), pl.Series("chosen", chosen, dtype=pl.Int64))


def fit_shares(available: np.ndarray, margins: Mapping[str, tuple[np.ndarray, Mapping[str, float]]]) -> np.ndarray:
    """Shares (S,) of the strata, of sum 1, whose margins are those named; zeros where a mix leaves nothing.

    Args:
        available: (S,) samples of each stratum.
        margins: axis -> (each stratum's value on it (S,), relative share of each value).
    """
    fitted = available.astype(np.float64)
    for value, wanted in margins.values():
        fitted = np.where(np.isin(value, list(wanted)), fitted, 0.0)
    if not fitted.any():
        return fitted
    targets = []  # (axis, value, which strata, share)
    for axis, (value, wanted) in margins.items():
        there = {name: share for name, share in wanted.items() if fitted[value == name].any()}
        targets += [(axis, name, value == name, share / sum(there.values())) for name, share in there.items()]
    fitted /= fitted.sum()
    for _ in range(ROUNDS):
        for _, _, at, share in targets:
            have = fitted[at].sum()
            fitted[at] *= share / have if have else 0.0
        gaps = [(abs(fitted[at].sum() - share), axis, name) for axis, name, at, share in targets]
        worst = max(gaps, default=(0.0, "", ""))
        if worst[0] < 1e-9:
            break
    if worst[0] > OFF_BY:
        raise ConfigError(
            f"no selection of the training samples has the shares of data.mix: they contradict each other at {worst[1]} {worst[2]!r}",
            fix="A data set with one label or kind alone can't take part in shares of both: name fewer of them",
        )
    return fitted / fitted.sum()


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers (S,) near `shares` * `total` whose sum is `total` (Webster's method; ties go to the first).

    The k-th sample of a stratum comes at (k - 1/2) / share, and those that come first are taken; so a larger total only adds.
    """
    taken = np.floor(shares * max(total - len(shares), 0) + 0.5).astype(np.int64)  # at most total - len(shares) / 2
    with np.errstate(divide="ignore", over="ignore"):  # a share of nothing never comes
        for _ in range(total - int(taken.sum())):
            taken[np.argmin((taken + 0.5) / shares)] += 1
    return taken


def mix_note(mix: pl.DataFrame) -> str | None:
    """One line on what was chosen of the training samples, None where it is all of them."""
    available, chosen = int(mix["available"].sum()), int(mix["chosen"].sum())
    if chosen == available:
        return None
    kept = mix.group_by("dataset", maintain_order=True).agg(pl.col("chosen").sum(), pl.col("available").sum())
    listed = [f"{name} {some:,} of {all_:,}" for name, some, all_ in kept.head(SHOWN).rows()]
    more = f" and {kept.height - SHOWN} data sets more" if kept.height > SHOWN else ""
    short = mix.filter(pl.col("chosen") < pl.col("asked"))
    lacking = "; ".join(
        f"{name} has {chosen:,} {label} {kind}s, not {asked:,}"
        for name, kind, label, asked, chosen in short.select(*AXES, "asked", "chosen").head(SHOWN).rows()
    )
    hint = f" ({lacking}; --max-samples 0 keeps the shares)" if lacking else ""
    return f"training on {chosen:,} of {available:,} samples: {', '.join(listed)}{more}{hint}"
