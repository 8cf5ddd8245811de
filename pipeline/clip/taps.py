"""Face crops through the backbone, a fixed micro-batch at a time.

The one decision: CLIP's bits depend on the batch size (another size takes other matrix kernels, which add up in another
order), so every forward pass has exactly `micro_batch` pictures, the last one filled up with black ones. A frame's tokens
then depend on nothing but its own pixels: not on its neighbours, their order, or how many there were. The micro-batch is
part of the fingerprint.

A layer's output is the raw residual stream behind that block: no final LayerNorm, no projection.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from d2st.cache.errors import ConfigError, WeightsError
from d2st.pipeline.clip.backbone import Backbone

__all__ = ["FLOAT16_MAX", "Take", "run_backbone", "steady_arithmetic"]

FLOAT16_MAX = 65504.0
Take = Callable[[slice, int, Tensor, Tensor], None]


def run_backbone(backbone: Backbone, crops: np.ndarray, *, blocks: Sequence[int], micro_batch: int, take: Take) -> int:
    """Call `take(rows, position, cls, patches)` for each micro-batch and tapped block, in order.

    Args:
        crops: RGB (N, S, S, 3) uint8; any S (resized when it is not the model's size), any N, 0 too.
        blocks: indices of the tapped blocks, rising.
        take: is given which rows of `crops` these are, the position in `blocks`, and of that block's output the CLS tokens (n, 1, C) and
            the patches (n, H*W, C), float32 on the device.

    Returns:
        How many values lie outside float16's range.

    Raises:
        ConfigError: crops of another shape or dtype.
        WeightsError: values that are not finite; known only after the last micro-batch.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3:
        raise ConfigError(f"crops are {crops.dtype} {crops.shape}", fix="Pass uint8 of shape (N, S, S, 3)")
    count, step, on_gpu = len(crops), micro_batch, backbone.device.startswith("cuda")
    pixels = torch.zeros((-(-count // step) * step, *crops.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu)
    pixels.numpy()[:count] = crops
    pixel = torch.tensor([backbone.mean, backbone.std], device=backbone.device).mul(255.0)[:, None, :, None, None]
    checks = []  # one (2,) tensor a micro-batch; read at the end, so that the device never waits
    with torch.inference_mode(), steady_arithmetic():
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            part = pixels[start : start + step].to(backbone.device, non_blocking=True)
            taps = _forward(backbone, blocks, part, pixel)
            for position, values in enumerate(zip(*taps, strict=True)):
                cls, patches = (value[: rows.stop - rows.start].float() for value in values)
                checks += [_check(cls), _check(patches)]
                take(rows, position, cls, patches)
        if on_gpu:
            torch.cuda.synchronize(backbone.device)
    bad, large = torch.stack(checks).sum(dim=0).tolist() if checks else (0, 0)
    if bad:
        raise WeightsError(f"{backbone.name} gave {bad} values that are not finite", fix="Check the weights, or use fp32")
    return large


def _forward(backbone: Backbone, blocks: Sequence[int], pixels: Tensor, pixel: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """One micro-batch, uint8 (n, S, S, 3): the CLS tokens (n, 1, C) of every layer, and its patches (n, H*W, C).

    `pixel` (2, 1, 3, 1, 1): mean and deviation of pixels in [0, 255].
    """
    images = pixels.permute(0, 3, 1, 2).float()  # (n, 3, S, S), 0..255
    size = (backbone.image_size, backbone.image_size)
    if images.shape[2:] != size:
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 255.0)
    images = (images - pixel[0]) / pixel[1]
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=backbone.precision == "bf16"):
        taps = backbone.model.forward_intermediates(
            images, indices=blocks, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
        )
    return taps["image_intermediates_prefix"], taps["image_intermediates"]


def _check(values: Tensor) -> Tensor:
    """How many of the values are not finite, and how many of the finite ones lie outside float16's range: (2,) int64."""
    finite = values.isfinite()
    return torch.stack([(~finite).sum(), (finite & (values.abs() > FLOAT16_MAX)).sum()])


@contextmanager
def steady_arithmetic() -> Iterator[None]:
    """Float32 means float32 (no TF32), and cuDNN keeps to one deterministic kernel; the caller's settings come back after.

    These switches are global: a thread that restores them would change the arithmetic of another. Who runs the backbone or the detector
    in several threads holds one such block around them all.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
