"""The cache: a store of frozen features. Knows arrays and rows; knows nothing of faces, CLIP or training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2st.cache.batch import Batch, Request
    from d2st.cache.loader import TokenLoader
    from d2st.cache.store import Store

__all__ = ["Batch", "Request", "Store", "TokenLoader"]

_HOMES = {"Batch": "batch", "Request": "batch", "TokenLoader": "loader", "Store": "store"}


def __getattr__(name: str) -> object:  # lazy: `d2st --help` must not import polars or torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
