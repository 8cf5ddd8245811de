"""What the parts of the trainer pass around: the parts of a running stage, how far it is, where batches come from, who is told."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from d2st.adapter.train.optim import Ema
from d2st.adapter.train.ranks import Ranks
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.select import Rows
from d2st.cache import Batch, Request

__all__ = ["BatchSource", "Event", "Progress", "Trainer"]

Event = Callable[[dict[str, Any]], None]


class BatchSource(Protocol):
    """Whatever streams batches of token maps; `d2st.cache.TokenLoader` is the one in use. Row r of view v is r + v * stride."""

    stride: int

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]: ...

    def close(self) -> None: ...


@dataclass
class Progress:
    """How far a stage is."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps of the next epoch done
    best_epoch: int = 0  # counted from 1; 0 means none yet
    best_value: float | None = None
    best_loss: float | None = None  # of the validation split, at the best epoch
    seconds: float = 0.0
    # of this epoch alone: samples seen, the time that took, and sums of the loss parts
    seen: int = 0
    train_s: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainer:
    """The parts of a running stage.

    stats: as `jitter_channels` takes them. dtype: of products, None is float32. class_weight: of real and fake, for the balanced loss.
    views, stride: as `epoch_requests` takes them.
    """

    recipe: Recipe
    detector: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    source: BatchSource
    rows: Rows
    stats: Mapping[str, tuple[Tensor, Tensor]]
    clip_frames: int
    device: torch.device
    ranks: Ranks = Ranks()  # noqa: RUF009, frozen
    dtype: torch.dtype | None = None
    class_weight: tuple[float, float] | None = None
    views: int = 1
    stride: int = 0

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained; looked up once, for a walk through the modules costs as much as a small forward pass."""
        return [parameter for parameter in self.detector.parameters() if parameter.requires_grad]

    @property
    def precision(self) -> str:
        """Of the products of a step, in words."""
        return str(self.dtype or torch.float32).removeprefix("torch.")
