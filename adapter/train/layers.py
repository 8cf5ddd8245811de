"""Which cached layers a network reads, from what a recipe asks for. Always in the order of depth, as the cache lists them."""

from collections.abc import Sequence

from d2st.cache.errors import ConfigError

__all__ = ["PRESETS", "resolve_layers"]

PRESETS = ("all", "four", "last")


def resolve_layers(wanted: str | Sequence[str], cached: Sequence[str]) -> list[str]:
    """The layers of `cached` (in the order of depth) that `wanted` means.

    Args:
        wanted: names, or "all", "last", or "four": evenly spaced ones, the last among them (blocks 2, 5, 8, 11 of twelve); all where
            there are no more than four.

    Raises:
        ConfigError: no layers, an unknown preset, or a layer that is not cached; names those that are.
    """
    if isinstance(wanted, str):
        if wanted not in PRESETS:
            raise ConfigError(
                f"adapter.layers can't be {wanted!r}", fix=f"Use {', '.join(PRESETS)}, or a list of {', '.join(cached)}"
            )
        parts = {"all": len(cached), "four": min(4, len(cached)), "last": 1}[wanted]
        return [cached[(part + 1) * len(cached) // parts - 1] for part in range(parts)]
    missing = [layer for layer in wanted if layer not in cached]
    if missing or not wanted:
        what = f"the cache has no layer {', '.join(missing)}" if missing else "adapter.layers is empty"
        raise ConfigError(
            what, fix=f"It has {', '.join(cached)}; set adapter.layers to some of them, or to {', '.join(PRESETS)}"
        )
    return [layer for layer in cached if layer in wanted]
