"""Products of cached maps: reference values, gradients, and what bfloat16 may cost on channels as CLIP has them."""

import pytest
import torch
from torch import Tensor

from d2st.adapter.nets import products
from d2st.adapter.nets.products import product_dtype_of, standardised_products


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every test meets a boundary between parts, and a short last one."""
    monkeypatch.setattr(products, "CPU_ROWS", 7)


def arguments(dtype: torch.dtype, *, rows: int = 10, channels: int = 5) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list]:
    generator = torch.Generator().manual_seed(0)
    x, scale, shift = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((2, rows, channels), (channels,), (channels,))
    )
    weights = [torch.randn(n, channels, generator=generator, dtype=dtype, requires_grad=True) for n in (3, 2)]
    bias = torch.randn(3, generator=generator, dtype=dtype, requires_grad=True)
    return x, scale, shift, weights, [bias, None]


def test_they_are_the_formula() -> None:
    x, scale, shift, weights, biases = arguments(torch.float64)
    first, second = standardised_products(x, scale, shift, weights, biases)
    torch.testing.assert_close(first, (x * scale + shift) @ weights[0].T + biases[0])
    torch.testing.assert_close(second, (x * scale + shift) @ weights[1].T)
    assert first.is_contiguous()


def test_gradients_of_weights_biases_and_features() -> None:
    x, scale, shift, weights, (bias, _) = arguments(torch.float64)

    def run(x: Tensor, one: Tensor, two: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return standardised_products(x, scale, shift, [one, two], [bias, None])

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *weights, bias))


def test_only_the_features_as_they_came_are_kept_for_the_backward_pass() -> None:
    x, scale, shift, weights, biases = arguments(torch.float32, rows=100)
    kept: list[Tensor] = []
    half = x.half()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        standardised_products(half, scale, shift, weights, biases)
    wide = [t for t in kept if t.numel() >= half.numel()]
    assert [t.data_ptr() for t in wide] == [half.data_ptr()]


def clip_like(rows: int = 4000, channels: int = 96) -> tuple[Tensor, Tensor, Tensor]:
    """float16 features (rows, C), mean and std (C,): deviations over two orders of magnitude, some means 30 deviations away."""
    generator = torch.Generator().manual_seed(1)
    std = 10 ** torch.linspace(-1.5, 0.5, channels)
    mean = torch.randn(channels, generator=generator) * std
    mean[::8] = 30 * std[::8]
    common = torch.randn(rows, 1, generator=generator) * 0.9  # most of the variance lies in one direction
    features = mean + std * (common + torch.randn(rows, channels, generator=generator) * (1 - 0.81) ** 0.5)
    return features.half(), mean, std


def whitening(standard: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(standard.T @ standard / len(standard))
    return (vectors * values.clamp(min=0.1).rsqrt()) @ vectors.T


def test_bfloat16_costs_under_one_per_cent_of_whitened_features_however_far_their_means_lie() -> None:
    features, mean, std = clip_like()
    scale, shift = 1 / std, -mean / std
    weight = whitening(features.double() * scale - mean.double() / std)
    exact = (features.double() * scale + shift) @ weight
    (rounded,) = standardised_products(features, scale, shift, [weight.bfloat16()], [None])
    error = (rounded.double() - exact).std(0) / exact.std(0)
    assert error.max() < 1e-2
    assert error.median() < 6e-3
    # what rounding before centring would do
    naive = (features.bfloat16().double() * scale + shift) @ weight
    assert ((naive - exact).std(0) / exact.std(0)).max() > 5 * error.max()


def test_bfloat16_gradients_of_many_rows_stay_within_a_per_cent() -> None:
    features, mean, std = clip_like()
    gradient = torch.randn(len(features), 4, generator=torch.Generator().manual_seed(2))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.zeros(4, features.shape[1], dtype=dtype, requires_grad=True)
        (out,) = standardised_products(features, 1 / std, -mean / std, [weight], [None])
        out.backward(gradient.to(dtype))
        found.append(weight.grad.float())
    assert (found[1] - found[0]).norm() / found[0].norm() < 1e-2


def test_autocast_chooses_the_dtype_and_nothing_else_does() -> None:
    x, weight = torch.ones(2, dtype=torch.float16), torch.ones(2)
    assert product_dtype_of(x, weight) is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_dtype_of(x, weight) is torch.bfloat16
