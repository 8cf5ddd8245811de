"""What goes into the loader and what comes out of it; and how stored arrays become token maps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2st.cache.buffers import Buffers
from d2st.cache.codec import dequantise

__all__ = ["Batch", "Decoder", "Request"]


@dataclass(frozen=True)
class Request:
    """What one batch holds.

    Attributes:
        rows: (B,T) int64, rows of the flat arrays; -1 is padding, and padding is always a suffix of a clip.
        tag: anything; comes back with the batch.
    """

    rows: np.ndarray
    tag: Any = None


@dataclass(frozen=True)
class Batch:
    """One batch on the device. Its tensors are valid until the next batch is asked for.

    Attributes:
        tokens: (B,T,H,W,C) for each layer, in the stored dtype, from int8 as float32; empty when the loader reads no maps.
        cls: (B,T,C) for each layer.
        mask: (B,T) bool, False for padding, whose values are zero.
    """

    tokens: dict[str, Tensor]
    cls: dict[str, Tensor]
    mask: Tensor
    tag: Any


class Decoder:
    """Makes batches of what was read.

    Args:
        layers: names of the layers.
        maps: False for CLS tokens alone.
        calibration: layer -> mean and std (C,) of int8 maps; empty for other dtypes.
        device: where the batches are.
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        *,
        maps: bool,
        calibration: Mapping[str, tuple[np.ndarray, np.ndarray]],
        device: torch.device,
    ) -> None:
        self._layers, self._maps, self._device = layers, maps, device
        self._calibration = {
            layer: (torch.as_tensor(mean).to(device), torch.as_tensor(std).to(device))
            for layer, (mean, std) in calibration.items()
            if layer in layers and maps
        }

    def __call__(self, request: Request, arrays: Mapping[str, Tensor], mask: Tensor, buffers: Buffers) -> Batch:
        """The batch of `request`.

        Args:
            arrays: (B*T, ...) of "<layer>/<kind>", on the device; the batch is made of their memory where nothing is to be decoded.
            mask: (B,T) bool, on the device.
            buffers: take what is decoded.
        """
        arrays = {name: array.view(*request.rows.shape, *array.shape[1:]) for name, array in arrays.items()}  # (B,T,...)
        tokens = {layer: arrays[f"{layer}/maps"] for layer in self._layers} if self._maps else {}
        keep = None if (request.rows >= 0).all() else mask
        with _one_thread(self._device):
            for layer, (mean, std) in self._calibration.items():
                stored = tokens[layer]
                out = buffers.take(f"{layer}/decoded", request.rows.size, stored.shape[2:], torch.float32).view(stored.shape)
                tokens[layer] = dequantise(stored, arrays[f"{layer}/scales"], mean, std, keep=keep, out=out)
        return Batch(tokens, {layer: arrays[f"{layer}/cls"] for layer in self._layers}, mask, request.tag)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, compute in the calling thread alone: frames are decoded one by one to stay in the cache, and waking a second thread for
    each takes three times as long as the work."""
    before = torch.get_num_threads()
    if device.type == "cpu" and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if device.type == "cpu" and before > 1:
            torch.set_num_threads(before)
