"""A detector: an adapter and the linear head on its embeddings. fake = 1, sigmoid(logit) = P(fake)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Detector", "Head", "Output"]


class Output(NamedTuple):
    """What a detector says of B clips of T frames. Padded frames read 0."""

    clip_logit: Tensor  # (B,)
    frame_logits: Tensor  # (B, T)
    embedding: Tensor  # (B, D)
    frame_embeddings: Tensor  # (B, T, D)


class Head(nn.Module):
    """One linear map from an embedding (..., D) to a logit (...,).

    Clip and frames share it: a frame's logit means the same as a clip's, and for T=1 they are equal.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embed_dim, 1)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(embedding).squeeze(-1)


class Detector(nn.Module):
    """`adapter` (see `spec.Adapter`) and `head`."""

    def __init__(self, adapter: nn.Module, head: Head) -> None:
        super().__init__()
        self.adapter, self.head = adapter, head

    def forward(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> Output:
        """See `spec.Adapter` for the arguments. Logits are float32 under autocast too."""
        embedding, frames = self.adapter(tokens, cls, mask)
        with torch.autocast(embedding.device.type, enabled=False):
            dtype = self.head.linear.weight.dtype
            embedding, frames = embedding.to(dtype), frames.to(dtype)
            return Output(self.head(embedding), self.head(frames).masked_fill(~mask, 0), embedding, frames)
