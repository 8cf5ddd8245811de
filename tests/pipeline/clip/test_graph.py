"""The exportable way from crops to token maps ends where the encoder's ends, rounding included."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from d2st.cache.codec import as_tensor, decode, quantise
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.clip.graph import TokenGraph, _up_to_float16, resize_matrix

LAYERS = ("block_0", "block_2")


def encoder(dtype, *, precision="fp32"):
    made = Encoder(load_backbone("d2st-test", "random:3", device="cpu", precision=precision), LAYERS, dtype=dtype)
    if dtype == "int8":
        crops = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        made.calibration = made.calibrate(crops)
    return made


@pytest.mark.parametrize(
    ("dtype", "size", "precision", "tolerance"),
    [
        ("float16", 32, "fp32", 2e-3),
        ("float16", 48, "fp32", 2e-3),  # larger crops than the model's input
        ("bfloat16", 20, "fp32", 3e-2),  # smaller ones
        ("int8", 32, "fp32", 6e-2),  # a step of a token
        ("float16", 32, "bf16", 6e-2),
    ],
)
def test_the_graph_gives_what_the_cache_holds(dtype, size, precision, tolerance):
    own = encoder(dtype, precision=precision)
    crops = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    graph = TokenGraph(own, size=size)
    with torch.no_grad():
        maps, cls = graph(torch.from_numpy(crops))
    arrays = own.encode(crops).arrays  # after the graph was made: it must have left the encoder alone
    for layer in LAYERS:
        wanted = decode(arrays[f"{layer}/maps"], arrays.get(f"{layer}/scales"), own.calibration.get(layer)).float()
        assert maps[layer].shape == (5, 4, 4, 64)
        torch.testing.assert_close(maps[layer], wanted, atol=tolerance, rtol=1e-2)
        torch.testing.assert_close(cls[layer], as_tensor(arrays[f"{layer}/cls"]).float(), atol=tolerance, rtol=1e-2)
        off = (maps[layer] - wanted).abs() > 1e-4 * (1 + wanted.abs())
        assert precision == "bf16" or off.float().mean() < 0.02  # rounding the other way is the exception


@pytest.mark.parametrize(("size", "to"), [(7, 12), (12, 7), (48, 32)])
def test_resizing_by_matrices_is_interpolate(size, to):
    picture = torch.rand(1, 3, size, size) * 255
    matrix = resize_matrix(size, to)
    wanted = F.interpolate(picture, (to, to), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(matrix @ picture @ matrix.T, wanted, atol=1e-3, rtol=1e-5)


@given(st.floats(0, 60000, width=32))
@example(2.0**-14)
@example(2.0**-24)
@example(2.0**-25)
@example(1.0009766)
@example(2048.5)
def test_scales_are_rounded_up_as_quantise_does(value):
    value = float(np.float32(value))
    _, scale = quantise(torch.tensor([value * 127.0]), torch.zeros(1), torch.ones(1))
    wanted = (torch.tensor([value * 127.0]) / 127).clamp(max=65504.0)
    assert _up_to_float16(wanted).item() == scale.float().item()
