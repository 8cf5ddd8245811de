"""Crops to token maps as one plain module, fit for `torch.export`: what `Encoder.encode` computes, without its batching and its checks.

The decision that shaped it: it always computes in float32 on any batch size, so that one graph serves every runtime. Against a cache that
was encoded in float32 that leaves the rounding of matrix products; against one in bfloat16 it leaves bfloat16's, which the exported
file's recorded parity shows. The result is rounded to the cache's dtype by arithmetic alone, because ONNX can't look at a float's bits.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2st.pipeline.clip.encode import Encoder
from d2st.pipeline.clip.layers import layer_index
from d2st.pipeline.clip.taps import FLOAT16_MAX

__all__ = ["TokenGraph", "resize_matrix"]

_LEVELS = 127  # of int8, as in `cache.codec.quantise`
_SMALLEST = 2.0**-14  # of float16's normal numbers
_STEP = 2.0**-24  # between the numbers below it


class TokenGraph(nn.Module):
    """RGB crops (N, S, S, 3) uint8 to maps, layer -> (N, H, W, C), and CLS, layer -> (N, C): as the cache's reader gives them, float32.

    Args:
        encoder: with its calibration, for int8; it is left as it is.
        size: S, in px.
    """

    def __init__(self, encoder: Encoder, *, size: int) -> None:
        super().__init__()
        backbone = encoder.backbone
        self.layers, self.dtype, self.grid = encoder.layers, encoder.dtype, backbone.grid
        self.blocks = [layer_index(name) for name in encoder.layers]
        tower = copy.deepcopy(backbone.model)
        if "forward" in vars(tower.conv1):
            del tower.conv1.forward  # of bfloat16: the wrapper that keeps it out of autocast's reach
        self.tower = tower.float().cpu().eval().requires_grad_(False)
        self.resize = None if size == backbone.image_size else nn.Buffer(resize_matrix(size, backbone.image_size))
        self.mean, self.std = (nn.Buffer(torch.tensor(v).mul(255.0)[:, None, None]) for v in (backbone.mean, backbone.std))
        self.calibration = nn.ParameterDict()
        for layer, (mean, std) in encoder.calibration.items():
            self.calibration[layer] = nn.Parameter(torch.stack((mean, std)).cpu(), requires_grad=False)

    def forward(self, crops: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = crops.permute(0, 3, 1, 2).float()  # (N, 3, S, S), 0..255
        if self.resize is not None:
            images = (self.resize @ images @ self.resize.mT).clamp(0.0, 255.0)
        images = (images - self.mean) / self.std
        taps = self.tower.forward_intermediates(
            images, indices=self.blocks, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
        )
        pairs = zip(self.layers, taps["image_intermediates"], taps["image_intermediates_prefix"], strict=True)
        maps, cls = {}, {}
        for layer, patches, prefix in pairs:
            maps[layer] = self._stored(layer, patches).unflatten(1, self.grid)
            cls[layer] = self._rounded(prefix.squeeze(1))
        return maps, cls

    def _rounded(self, values: Tensor) -> Tensor:
        if self.dtype == "bfloat16":
            return values.bfloat16().float()
        return values.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float()

    def _stored(self, layer: str, values: Tensor) -> Tensor:
        """Maps (N, H*W, C) after a way through the cache."""
        if self.dtype != "int8":
            return self._rounded(values)
        mean, std = self.calibration[layer]
        z = (values.clamp(-FLOAT16_MAX, FLOAT16_MAX) - mean) * torch.where(std > 0, 1 / std, 0.0)
        steps = _up_to_float16((z.abs().amax(dim=-1, keepdim=True) / _LEVELS).clamp(max=FLOAT16_MAX))  # (N, H*W, 1)
        q = (z * torch.where(steps > 0, 1 / steps, 0.0)).round().clamp(-_LEVELS, _LEVELS)
        return q * steps * std + mean


def resize_matrix(size: int, to: int) -> Tensor:
    """(to, size): rows of weights, so that R x R^T is the bicubic, antialiased resize of a square picture x as `interpolate` does it."""
    identity = torch.eye(size)[None, None]  # each column a picture's column
    narrow = F.interpolate(identity, (to, size), mode="bicubic", antialias=True, align_corners=False)
    return narrow[0, 0]


def _up_to_float16(values: Tensor) -> Tensor:
    """The least float16 number that is no smaller, of values >= 0 within its range, as float32.

    The next number above a normal one lies 2^-10 to 2^-11 of it further: 0.75 * 2^-10 of it more rounds to just that one.
    """
    near = values.half().float()
    above = torch.where(near < _SMALLEST, near + _STEP, (near * (1 + 0.75 * 2.0**-10)).half().float())
    return torch.where(near < values, above, near)
