"""Adapters by name. A new one is a new file with a `SPEC`, and one line in `ADAPTERS` here; the contract test picks it up by itself."""

from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from d2st.adapter.nets import attentive_probe, d2st, linear_probe, meanpool_mlp, st_adapter
from d2st.adapter.nets.spec import AdapterParams, AdapterSpec, Stats
from d2st.cache.errors import ConfigError, UnknownNameError

__all__ = ["ADAPTERS", "adapter_names", "adapter_params", "adapter_summary", "build_adapter"]

ADAPTERS: dict[str, AdapterSpec] = {
    "d2st": d2st.SPEC,
    "st_adapter": st_adapter.SPEC,
    "attentive_probe": attentive_probe.SPEC,
    "meanpool_mlp": meanpool_mlp.SPEC,
    "linear_probe": linear_probe.SPEC,
}


def adapter_names() -> list[str]:
    """All registered adapters, the default first."""
    return list(ADAPTERS)


def adapter_summary(name: str) -> str:
    """What an adapter is, in one line."""
    return _spec(name).summary


def adapter_params(name: str, params: dict[str, Any]) -> AdapterParams:
    """Check an adapter's parameters without building it.

    Raises:
        UnknownNameError: no such adapter.
        ConfigError: an unknown key or a value out of range; names the key, what is wrong, and the known keys.
    """
    model = _spec(name).params
    if "preset" in params and "preset" not in model.model_fields:
        sized = ", ".join(other for other, spec in ADAPTERS.items() if "preset" in spec.params.model_fields)
        raise ConfigError(f"adapter {name!r} comes in one size and has no preset", fix=f"Leave it out; these have one: {sized}")
    try:
        return model(**params)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(model.model_fields) or "none, it takes no parameters"
        raise ConfigError(f"adapter {name!r} can't take these parameters: {faults}", fix=f"Known: {known}") from error


def build_adapter(
    name: str, *, layers: tuple[str, ...], channels: int, grid: tuple[int, int], stats: Stats, **params: Any
) -> nn.Module:
    """Make an adapter (see `spec.Adapter`) with fresh weights, drawn from torch's global generator.

    Args:
        name: one of `adapter_names()`.
        layers: tapped layers in the order of depth, e.g. ("block_5", "block_11").
        channels: C of the cached features.
        grid: (H, W) of the cached maps.
        stats: layer -> (mean, std), each (C,), of the maps of every tapped layer; `layer + "/cls"` -> those of its CLS token.
        params: the adapter's own parameters.

    Raises:
        UnknownNameError: no such adapter.
        ConfigError: bad parameters, no layers, or no statistics for one of them.
    """
    checked = adapter_params(name, params)
    missing = [layer for layer in layers if layer not in stats]
    if not layers or missing:
        raise ConfigError(
            f"adapter {name!r} needs at least one tapped layer and channel statistics for each; missing {missing or 'layers'}",
            fix=f"Layers with statistics: {', '.join(stats) or 'none, for the cache has no training split'}",
        )
    for layer in layers:
        if torch.as_tensor(stats[layer][0]).shape != (channels,):
            raise ConfigError(f"statistics of {layer} have {len(stats[layer][0])} channels, the features have {channels}")
    return ADAPTERS[name].build(checked, layers=tuple(layers), channels=channels, grid=tuple(grid), stats=stats)


def _spec(name: str) -> AdapterSpec:
    if name not in ADAPTERS:
        raise UnknownNameError("adapter", name, adapter_names())
    return ADAPTERS[name]
