"""One clip's features under one name each, and the detector's answer to them: what every part of an explanation starts from."""

from collections.abc import Mapping

import torch
from torch import Tensor

from d2st.adapter.nets.detector import Detector, Output
from d2st.cache.errors import ConfigError

__all__ = ["Features", "clip_values", "run"]

Features = Mapping[str, Tensor]


def clip_values(detector: Detector, tokens: Features, cls: Features) -> dict[str, Tensor]:
    """What the adapter reads of a clip, copied in the dtype that it computes in: `layer` (1,T,H,W,C) and `layer + "/cls"` (1,T,C).

    Args:
        tokens: layer -> (T,H,W,C), cls: layer -> (T,C), any float dtype, on the detector's device.

    Raises:
        ConfigError: the adapter reads no maps, so there is no place to point at.
    """
    adapter = detector.adapter
    if not adapter.needs_maps:
        raise ConfigError(
            "this detector reads CLS tokens alone: a score of the whole frame, without a place to point at",
            fix="Explain a run whose adapter reads token maps, such as d2st, st_adapter, attentive_probe or meanpool_mlp",
        )
    given = {**tokens, **{f"{layer}/cls": value for layer, value in cls.items()}}
    return {name: given[name].detach().to(mean.dtype, copy=True)[None] for name, mean in adapter.means.items()}


def run(detector: Detector, values: Features) -> Output:
    """The detector's output for one clip of `clip_values`, all of whose frames exist."""
    tokens = {name: value for name, value in values.items() if not name.endswith("/cls")}
    cls = {name.removesuffix("/cls"): value for name, value in values.items() if name.endswith("/cls")}
    first = next(iter(cls.values()))  # (1, T, C)
    return detector(tokens, cls, torch.ones(first.shape[:2], dtype=torch.bool, device=first.device))
