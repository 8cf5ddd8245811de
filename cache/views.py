"""Token sets of the same crops that are read as one: as they are, mirrored, brighter. Training draws one of them for each sample.

A set's config says under "view" what was done to the crops; one without the field was made from the crops as they are. Sets can be mixed
when that is all in which they differ: a batch of several backbones, dtypes or calibrations could not be decoded as one, nor understood.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import ConfigError
from d2st.cache.fingerprint import check_same

if TYPE_CHECKING:
    from d2st.cache.store import Store, TokenLevel

__all__ = ["VIEW", "check_mixable", "open_views", "row_stride", "without_view"]

VIEW = "view"  # the field of a token set's config
_OWN = (VIEW, "layers")  # fields in which sets that are mixed may differ


def open_views(store: "Store", names: Sequence[str]) -> dict[str, "TokenLevel"]:
    """The token sets of these names but for the opened one, which must be among them; empty when there are no names.

    Raises:
        ConfigError: a set does not exist, is named twice, or the opened one is not among them.
    """
    sets, shown = store.token_sets(), ", ".join(names)
    if missing := [name for name in names if name not in sets]:
        raise ConfigError(
            f"{store.path} has no token set named {missing[0]!r}, it has {', '.join(sets)}",
            fix=f"Make it: d2st cache encode {store.path} --as {missing[0]} --view ... (or leave it out of data.views)",
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"the views {shown} name a token set twice", fix="Name each once in data.views")
    if names and store.token_set not in names:
        raise ConfigError(
            f"the opened token set {store.token_set!r}, which validation needs, is not among the views {shown}",
            fix="Add it to data.views, or open one of them with --tokens",
        )
    opened = type(store)
    return {name: opened.open(store.path, tokens=name).tokens for name in names if name != store.token_set}


def without_view(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a token set's config in which sets that are mixed may not differ."""
    return {key: value for key, value in config.items() if key not in _OWN}


def check_mixable(store: "Store", views: Mapping[str, "TokenLevel"], *, layers: Sequence[str]) -> None:
    """Let these token sets pass if batches may mix them with the opened one.

    Raises:
        FingerprintError: one was made with other settings; names each field that differs.
        ConfigError: one lacks a layer, or was calibrated otherwise.
    """
    first, own = store.tokens, store.token_set
    for name, other in views.items():
        check_same(
            without_view(other.config),
            without_view(first.config),
            where=f"the token set {name!r} of {store.path}, which is to be mixed with {own!r},",
            fix=f"Encode the view with the settings of {own!r} (--view alone takes those of main), or leave it out of data.views",
        )
        if lacking := [layer for layer in layers if layer not in other.layers]:
            raise ConfigError(
                f"the token set {name!r} of {store.path} lacks {', '.join(lacking)}, which {own!r} has",
                fix=f"Add them: d2st cache add-layers {store.path} --tokens {name} --layers {','.join(lacking)}",
            )
        if differing := [layer for layer in layers if not _same_calibration(first, other, layer)]:
            raise ConfigError(
                f"the int8 maps of {name!r} can't be mixed with those of {own!r}: {differing[0]} was calibrated otherwise",
                fix=f"Encode the view under another name, while {own!r} is whole: it then takes the calibration of main",
            )


def row_stride(views: Sequence["TokenLevel"]) -> int:
    """Rows between a view's frame and the same frame of the next view: whole shards, enough for each of the sets."""
    shards = [shard for tokens in views for level in tokens.levels for shard in level.committed()]
    return (max(shards, default=0) + 1) * SHARD_FRAMES


def _same_calibration(first: "TokenLevel", other: "TokenLevel", layer: str) -> bool:
    if first.dtype != "int8":
        return True
    return all(np.array_equal(a, b) for a, b in zip(first.calibration[layer], other.calibration[layer], strict=True))
