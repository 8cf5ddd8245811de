"""The views that a stage draws from: token sets of the same crops, such as mirrored ones; each epoch reads one of them for each sample.

The opened set is among them and serves all that is measured: channel statistics, whitening, validation and the modality gap.
"""

from collections.abc import Sequence

import polars as pl

from d2st.cache import Store
from d2st.cache.errors import ConfigError
from d2st.cache.views import check_mixable, open_views

__all__ = ["plan_views"]

_PLACE = ("sample_id", "start", "frames_cached")


def plan_views(store: Store, names: Sequence[str], train: pl.DataFrame, *, layers: Sequence[str]) -> dict[str, str]:
    """Fingerprints of the views by name, the opened set first; empty without names.

    Args:
        names: of token sets.
        train: the training samples as `Store.samples` gives them: every view must hold them all, at the same rows.
        layers: what is read.

    Raises:
        ConfigError, FingerprintError: a view is missing or unfinished, or can't be mixed with the opened set.
    """
    others = open_views(store, names)
    check_mixable(store, others, layers=layers)
    for name in others:
        held = Store.open(store.path, tokens=name).samples(train.select("sample_id"))
        lacking = train.join(held, on=_PLACE, how="anti").height
        if lacking:
            raise ConfigError(
                f"the token set {name!r} of {store.path} lacks {lacking} of the {train.height} training samples",
                fix=f"Finish it by the command that began it: d2st cache encode {store.path} --as {name} --view ...",
            )
    return {store.token_set: store.tokens.fingerprint, **{k: view.fingerprint for k, view in others.items()}} if names else {}
