"""What an adapter's file hands to the registry, and the call that every adapter answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

__all__ = ["Adapter", "AdapterParams", "AdapterSpec", "Stats"]

Stats = Mapping[str, tuple[Any, Any]]  # layer -> (mean, std), each (C,), numpy or torch


class Adapter(Protocol):
    """An `nn.Module` that turns cached features into embeddings.

    Called with tokens: layer -> (B,T,H,W,C), cls: layer -> (B,T,C), any float dtype, and mask: bool (B,T), True for frames that
    exist: a prefix of each row, at least one (else ValueError). Returns an embedding (B,D) and frame embeddings (B,T,D), the
    latter 0 at padded frames. What padded frames hold, NaN included, changes nothing.
    """

    embed_dim: int  # D
    needs_maps: bool  # False: `tokens` may be empty
    means: dict[str, Tensor]  # of all that it reads, (C,) each: `layer` and `layer + "/cls"`; "nothing there" to an explanation

    def __call__(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]: ...


class AdapterParams(BaseModel):
    """Base of every adapter's parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class AdapterSpec:
    """`build(params, *, layers, channels, grid, stats)` makes the adapter; `params` is the model that checks its parameters."""

    summary: str
    params: type[AdapterParams]
    build: Callable[..., Any]
