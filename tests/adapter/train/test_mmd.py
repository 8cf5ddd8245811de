"""Maximum mean discrepancy against loops in float64, and what a loss that aligns must not reward."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.nets import Output
from d2st.adapter.train.losses import mmd
from d2st.adapter.train.objective import Clips, classify_and_align
from d2st.adapter.train.recipe import Align, Loss


def slow_mmd(x, y):
    both = torch.cat([x, y]).double()
    apart = [[float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True))) for b in both.tolist()] for a in both.tolist()]
    pairs = sorted(apart[i][j] for i in range(len(both)) for j in range(len(both)) if i != j)
    median = pairs[(len(pairs) - 1) // 2]

    def kernel(i, j):
        return sum(math.exp(-apart[i][j] / (width * median)) for width in (0.25, 0.5, 1, 2, 4)) / 5

    n, m = len(x), len(y)
    xx = sum(kernel(i, j) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(n + i, n + j) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(i, n + j) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def two_batches(seed, n=5, m=6, width=4, shift=0.7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.randn(m, width, generator=generator) + shift


@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_it_is_the_formula(n, m, seed):
    x, y = two_batches(seed, n, m)
    assert mmd(x, y).item() == pytest.approx(slow_mmd(x, y), abs=1e-5)
    assert mmd(y, x).item() == pytest.approx(mmd(x, y).item(), abs=1e-5)


@given(st.floats(1e-3, 1e3), st.floats(-5, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_shrinking_or_moving_both_lowers_nothing(scale, shift, seed):
    x, y = two_batches(seed)
    assert mmd(scale * x + scale * shift, scale * y + scale * shift).item() == pytest.approx(mmd(x, y).item(), abs=1e-3)


def test_gradients():
    x, y = (batch.double().requires_grad_() for batch in two_batches(3))
    assert torch.autograd.gradcheck(mmd, (x, y))


def test_it_is_zero_on_average_where_nothing_differs_and_grows_with_the_shift():
    same, near, far = (
        sum(mmd(*two_batches(seed, 8, 8, shift=shift)).item() for seed in range(300)) / 300 for shift in (0.0, 0.5, 1.0)
    )
    assert abs(same) < 0.01
    assert same + 0.03 < near < far


def test_too_few_samples_and_no_spread_at_all():
    x, y = two_batches(0)
    assert mmd(x[:1], y).item() == mmd(x, y[:0]).item() == 0
    # one point, and a batch of which more than half is one point: the median distance is zero
    for batch in (torch.zeros(4, 3), torch.cat([torch.zeros(6, 3), torch.ones(1, 3)])):
        batch = batch.clone().requires_grad_()
        loss = mmd(batch, torch.zeros(5, 3))
        loss.backward()
        assert loss.isfinite()
        assert batch.grad.isfinite().all()


def test_float32_under_autocast_and_from_half_precision():
    x, y = two_batches(1)
    plain = mmd(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mmd(x, y), plain)
    assert mmd(x.bfloat16(), y.bfloat16()).dtype == torch.float32


class Pooled(torch.nn.Module):
    """A detector whose embedding is the mean CLS of a clip."""

    def forward(self, tokens, cls, mask):
        frames = cls["last"]
        return Output(frames.sum((1, 2)), frames.sum(2), frames.mean(1), frames)


def test_stage_3_compares_each_label_with_itself():
    """Kinds of one distribution, but other shares of the labels: nothing to align, though the mixtures lie apart."""
    generator = torch.Generator().manual_seed(0)

    def clips(label, frames):
        cls = torch.randn(len(label), frames, 3, generator=generator) / 3 + 4 * label[:, None, None]
        return Clips({}, {"last": cls}, torch.ones(len(label), frames, dtype=torch.bool), label, label)

    images, videos = clips(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 1), clips(torch.tensor([0, 0, 1, 1, 1, 1, 1, 1]), 1)
    x, y = images.cls["last"][:, 0], videos.cls["last"][:, 0]
    parts = classify_and_align(Pooled(), images, videos, loss=Loss(), align=Align(mmd=0.5), luck=torch.zeros(8))
    expected = (slow_mmd(x[:6], y[:2]) + slow_mmd(x[6:], y[2:])) / 2
    assert parts["mmd"].item() == pytest.approx(0.5 * expected, abs=1e-5)
    assert mmd(x, y) > 0.2 > expected
    one_label = clips(torch.zeros(8, dtype=torch.long), 1)
    assert classify_and_align(Pooled(), images, one_label, loss=Loss(), align=Align(mmd=1), luck=torch.zeros(8))[
        "mmd"
    ].isfinite()
