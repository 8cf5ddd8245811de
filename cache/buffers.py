"""Reused memory for batches: faulting the pages of freshly allocated memory in is half of the cost of a read."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["TORCH_DTYPES", "Buffers", "as_numpy"]

TORCH_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "uint16": torch.bfloat16,  # bfloat16 is stored as its bits
    "int8": torch.int8,
    "uint8": torch.uint8,
}


class Buffers:
    """One buffer a name, each grown to the most frames that were ever asked for.

    Args:
        device: where they lie.
        pinned: page-locked, so that a GPU fetches from them by itself.
    """

    def __init__(self, *, device: torch.device | str = "cpu", pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, frames: int, frame_shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """(frames, *frame_shape) of the buffer `name`, holding anything. A name keeps one frame shape and dtype."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < frames:
            self._buffers.pop(name, None)  # before the new one is there
            buffer = torch.empty((frames, *frame_shape), dtype=dtype, device=self._device, pin_memory=self._pinned)
            self._buffers[name] = buffer
        return buffer[:frames]


def as_numpy(tensor: Tensor) -> np.ndarray:
    """A CPU tensor's memory; bfloat16, which NumPy lacks, as its uint16 bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
