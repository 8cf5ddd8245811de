"""The three networks of MTCNN as plain functions (Zhang, Zhang, Li, Qiao 2016, arXiv 1604.02878, figure 2).

Functions over a tuple of layers rather than modules: there is nothing to train. Input is RGB, (x - 127.5) / 128, upright.
The authors trained in MATLAB, on transposed images; the wheel's kernels are turned back, and what is left of it is that the
dense layers flatten in the order width, height, channel. Pooling rounds up, as Caffe does. Every regression is in the order
x0, y0, x1, y1, in units of the window's side; landmarks are five x, then five y, from the window's corner, in the same units.
"""

import torch
import torch.nn.functional as F

from .mtcnn_weights import Layer

__all__ = ["ONET_SIDE", "PNET_CELL", "PNET_STRIDE", "RNET_SIDE", "onet", "pnet", "rnet"]

PNET_CELL, PNET_STRIDE, RNET_SIDE, ONET_SIDE = 12, 2, 24, 48


def pnet(layers: tuple[Layer, ...], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (B, 3, H, W) with even H and W -> face probability (B, h, w) and regression (B, 4, h, w), h = (H - 12) / 2 + 1.

    Cell (i, j) looks at the 12x12 window with its corner at row 2i, column 2j.
    """
    x = F.max_pool2d(_conv(x, layers[0]), 2, 2, ceil_mode=True)
    x = _conv(_conv(x, layers[1]), layers[2])
    return _face_probability(_conv(x, layers[4])), _conv(x, layers[3])


def rnet(layers: tuple[Layer, ...], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (N, 3, 24, 24) -> face probability (N,) and regression (N, 4)."""
    x = F.max_pool2d(_conv(x, layers[0]), 3, 2, ceil_mode=True)  # (N, 28, 11, 11)
    x = F.max_pool2d(_conv(x, layers[1]), 3, 2, ceil_mode=True)  # (N, 48, 4, 4)
    x = _dense(_flatten(_conv(x, layers[2])), layers[3])  # (N, 64, 3, 3) -> (N, 128)
    return _face_probability(_dense(x, layers[5])), _dense(x, layers[4])


def onet(layers: tuple[Layer, ...], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (N, 3, 48, 48) -> face probability (N,), regression (N, 4), landmarks (N, 10)."""
    x = F.max_pool2d(_conv(x, layers[0]), 3, 2, ceil_mode=True)  # (N, 32, 23, 23)
    x = F.max_pool2d(_conv(x, layers[1]), 3, 2, ceil_mode=True)  # (N, 64, 10, 10)
    x = F.max_pool2d(_conv(x, layers[2]), 2, 2, ceil_mode=True)  # (N, 64, 4, 4)
    x = _dense(_flatten(_conv(x, layers[3])), layers[4])  # (N, 128, 3, 3) -> (N, 256)
    return _face_probability(_dense(x, layers[7])), _dense(x, layers[5]), _dense(x, layers[6])


def _conv(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    x = F.conv2d(x, layer.weight, layer.bias)
    return x if layer.slope is None else F.prelu(x, layer.slope)


def _dense(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    x = F.linear(x, layer.weight, layer.bias)
    return x if layer.slope is None else F.prelu(x, layer.slope)


def _flatten(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 2, 1).flatten(1)  # (N, C, H, W) -> (N, W * H * C)


def _face_probability(logits: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(logits[:, 1] - logits[:, 0])  # the softmax of two classes: no face, face
