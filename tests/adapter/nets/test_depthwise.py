"""The sum of 2-D convolutions against `conv3d`, gradients included."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.nets.depthwise import depthwise

odd, sizes = st.sampled_from([1, 3]), st.integers(1, 4)


@settings(max_examples=40, deadline=None)
@given(st.tuples(odd, odd, odd), st.tuples(st.integers(1, 5), sizes, sizes), st.integers(1, 3))
def test_same_padding_equals_conv3d(kernel, extent, batch) -> None:
    """The positional convolution (3, 3, 3) and ST-Adapter's (3, 1, 1) among others, clips of one frame among longer ones."""
    agrees(kernel, extent, batch, stride=(1, 1, 1), padding=tuple(k // 2 for k in kernel))


@settings(max_examples=40, deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.tuples(*[st.integers(0, 6)] * 3), st.tuples(sizes, sizes, sizes), st.integers(1, 3))
def test_strides_without_padding_equal_conv3d(kernel, more, stride, batch) -> None:
    """The offset convolutions, where cells are left over at the ends as well."""
    agrees(kernel, tuple(k + m for k, m in zip(kernel, more, strict=True)), batch, stride=stride, padding=(0, 0, 0))


def agrees(kernel, extent, batch, *, stride, padding) -> None:
    volume = torch.randn(batch, *extent, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    expected = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight, bias, stride, padding, groups=2).permute(0, 2, 3, 4, 1)
    ours = depthwise(volume, weight, bias, stride=stride, padding=padding)
    torch.testing.assert_close(ours, expected)
    pull = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (volume, weight, bias), pull)
    torch.testing.assert_close(torch.autograd.grad(ours, (volume, weight, bias), pull), wanted)
