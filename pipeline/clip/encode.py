"""Face crops in, token maps out.

The one decision: CLIP's bits depend on the batch size (another size takes other matrix kernels, which add up in another
order), so every forward pass has exactly `micro_batch` pictures, the last one filled up with black ones. A frame's tokens
then depend on nothing but its own pixels: not on its neighbours, their order, or how many there were. The micro-batch is
part of the fingerprint.

A layer's output is the raw residual stream behind that block: no final LayerNorm, no projection.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2st.cache.errors import ConfigError, WeightsError
from d2st.pipeline.clip.backbone import Backbone
from d2st.pipeline.clip.layers import layer_index, layer_names

__all__ = ["DTYPES", "Encoder", "Tokens"]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tapped layers of N frames: `maps[layer]` (N, H, W, C) and `cls[layer]` (N, C).

    Arrays are float16, or uint16 holding the bits of bfloat16. `clamped` counts the values that lay outside float16's range
    and were set to its limit (always 0 for bfloat16).
    """

    maps: dict[str, np.ndarray]
    cls: dict[str, np.ndarray]
    clamped: int


class Encoder:
    """Runs a backbone over face crops, a fixed micro-batch at a time.

    It takes the backbone over: the blocks behind the last tapped one are removed from `backbone.model`.
    Raises ConfigError for layers that the backbone does not have (any more), or an unknown dtype.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[str], *, micro_batch: int = 16, dtype: str = "float16") -> None:
        """`layers`: names in depth order, as `resolve_layers` gives them. `dtype` of the result: float16 or bfloat16."""
        present = layer_names(len(backbone.model.transformer.resblocks))
        if not layers or list(layers) != [name for name in present if name in set(layers)]:
            raise ConfigError(
                f"layers {', '.join(layers) or '(none)'} are not among the blocks of {backbone.name} in depth order",
                fix=f"It has {present[0]} to {present[-1]}; for others load the backbone afresh",
            )
        if dtype not in DTYPES:
            raise ConfigError(f"{dtype!r} is not a token dtype", fix=f"Use one of {', '.join(DTYPES)}")
        if micro_batch < 1:
            raise ConfigError(f"a micro-batch of {micro_batch} frames is not possible", fix="Use 1 or more")
        self.backbone = backbone
        self.layers = tuple(layers)
        self.micro_batch = micro_batch
        self.dtype = dtype
        self._blocks = [layer_index(name) for name in self.layers]
        backbone.model.prune_intermediate_layers(self._blocks, prune_norm=True, prune_head=True)
        pixel = torch.tensor([backbone.mean, backbone.std], device=backbone.device).mul(255.0)  # (2, 3)
        self._mean, self._std = pixel[:, None, :, None, None]  # (1, 3, 1, 1) each, for pixels in [0, 255]

    def declared(self) -> dict[str, Any]:
        """What the tokens depend on, as JSON values for the fingerprint. Two encoders that declare the same are the same."""
        backbone = self.backbone
        return {
            "backbone": backbone.name,
            "weights_digest": backbone.weights_digest,
            "image_size": backbone.image_size,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "resize": "bicubic-antialias-float32-clamped",
            "precision": backbone.precision,
            "micro_batch": self.micro_batch,
            "layers": list(self.layers),
            "tap": "residual-stream-after-block",
            "dtype": self.dtype,
        }

    def encode(self, crops: np.ndarray) -> Tokens:
        """Encode RGB crops (N, S, S, 3) uint8; any S (resized when it is not the model's size), any N, 0 too.

        Raises ConfigError for another shape or dtype, WeightsError when the backbone gives values that are not finite.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3:
            raise ConfigError(f"crops are {crops.dtype} {crops.shape}", fix="Pass uint8 of shape (N, S, S, 3)")
        count, step, backbone = len(crops), self.micro_batch, self.backbone
        on_gpu = backbone.device.startswith("cuda")
        steps = -(-count // step)
        pixels = torch.zeros((steps * step, *crops.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu)
        pixels.numpy()[:count] = crops

        def room(*shape: int) -> list[Tensor]:
            return [torch.empty((count, *shape), dtype=DTYPES[self.dtype], pin_memory=on_gpu) for _ in self.layers]

        maps, cls = room(*backbone.grid, backbone.channels), room(backbone.channels)
        checks = []  # one (2,) tensor a micro-batch; read at the end, so that the device never waits
        with torch.inference_mode(), _plain_arithmetic():
            for start in range(0, count, step):
                rows = slice(start, min(start + step, count))
                taps = self._forward(pixels[start : start + step].to(backbone.device, non_blocking=True))
                for target, values in zip(cls + maps, taps, strict=True):
                    values = values[: rows.stop - rows.start].float()
                    checks.append(_check(values))
                    values = values.clamp(-_FLOAT16_MAX, _FLOAT16_MAX) if self.dtype == "float16" else values
                    target[rows].copy_(values.to(target.dtype).view(target[rows].shape), non_blocking=True)
            if on_gpu:
                torch.cuda.synchronize(backbone.device)
        bad, large = torch.stack(checks).sum(dim=0).tolist() if checks else (0, 0)
        if bad:
            raise WeightsError(f"{backbone.name} gave {bad} values that are not finite", fix="Check the weights, or use fp32")
        return Tokens(self._arrays(maps), self._arrays(cls), large if self.dtype == "float16" else 0)

    def _arrays(self, tensors: list[Tensor]) -> dict[str, np.ndarray]:
        """Name the layers; numpy has no bfloat16, so its bits are handed out as uint16."""
        named = zip(self.layers, tensors, strict=True)
        return {name: (t if t.dtype == torch.float16 else t.view(torch.uint16)).numpy() for name, t in named}

    def _forward(self, pixels: Tensor) -> list[Tensor]:
        """One micro-batch, uint8 (n, S, S, 3): first the CLS tokens (n, 1, C) of every layer, then its patches (n, H*W, C)."""
        backbone = self.backbone
        images = pixels.permute(0, 3, 1, 2).float()  # (n, 3, S, S), 0..255
        size = (backbone.image_size, backbone.image_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 255.0)
        images = (images - self._mean) / self._std
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=backbone.precision == "bf16"):
            taps = backbone.model.forward_intermediates(
                images, indices=self._blocks, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
            )
        return taps["image_intermediates_prefix"] + taps["image_intermediates"]


def _check(values: Tensor) -> Tensor:
    """How many of the values are not finite, and how many of the finite ones lie outside float16's range: (2,) int64."""
    finite = values.isfinite()
    return torch.stack([(~finite).sum(), (finite & (values.abs() > _FLOAT16_MAX)).sum()])


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """Float32 means float32 (no TF32), and cuDNN keeps to one deterministic kernel; the caller's settings come back after."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
