"""Whitening and the motion read: reference values, and what they must not depend on."""

import pytest
import torch
from torch import nn

from d2st.adapter.nets.conditioning import EIGENVALUE_FLOOR, WhitenedLinear, cls_norm, whitening_matrix


def correlated(count: int, channels: int = 6) -> torch.Tensor:
    """Tokens (count, C) most of whose variance lies in one direction, as CLIP's does."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(count, 1, generator=generator) * torch.linspace(1, 3, channels)
    return common + torch.randn(count, channels, generator=generator) * torch.linspace(1.0, 2.0, channels) + 5.0


def fitted(tokens: torch.Tensor, width: int = 6) -> WhitenedLinear:
    made = WhitenedLinear(tokens.mean(0), tokens.std(0, correction=0), width)
    standard = made.channel_norm(tokens).double()
    made.set_whitening(standard.T @ standard / len(standard))
    return made


def test_whitened_channels_are_uncorrelated_with_unit_variance() -> None:
    tokens = correlated(5000)
    read = fitted(tokens)
    white = read.channel_norm(tokens) @ read.whitening
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6), atol=2e-3, rtol=0)


def test_weak_directions_stay_weak() -> None:
    """A direction below the floor is scaled as one at the floor: rounding must not be blown up to a signal."""
    values = torch.tensor([3.0, 0.9999, 0.0001], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    scale = torch.linalg.eigvalsh(whitening_matrix((turn * values) @ turn.T)).sort().values
    expected = torch.tensor([3.0**-0.5, 0.9999**-0.5, EIGENVALUE_FLOOR**-0.5], dtype=torch.float64)
    torch.testing.assert_close(scale, expected)


def test_the_folded_product_is_the_formula() -> None:
    tokens = correlated(500)
    read = fitted(tokens, width=4)
    z = (tokens - tokens.mean(0)) / tokens.std(0, correction=0) @ read.whitening @ read.project.weight.T + read.project.bias
    expected = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(read(tokens), expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_autocast_does_not_reach_the_read() -> None:
    tokens = correlated(100)
    read = fitted(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read(tokens), read(tokens.clone()))
        assert read(tokens).dtype == torch.float32
        inside = read(tokens)
    torch.testing.assert_close(inside, read(tokens))


def test_motion_is_the_mean_change_to_both_neighbours() -> None:
    read = WhitenedLinear(torch.zeros(2), torch.ones(2), 4)
    project = nn.Linear(2, 1, bias=False)
    nn.init.ones_(project.weight)
    x = torch.zeros(1, 4, 1, 1, 2)
    x[0, :, 0, 0, 0] = torch.tensor([0.0, 3.0, 3.0, 1.0])  # changes: 3, 0, 2
    torch.testing.assert_close(read.motion(x, project).flatten(), torch.tensor([3.0, 1.5, 1.0, 2.0]))


def test_a_still_has_no_motion_and_a_constant_offset_adds_none() -> None:
    read, project = fitted(correlated(100)), nn.Linear(6, 3, bias=False)
    clip = correlated(24).reshape(2, 3, 2, 2, 6)
    assert not read.motion(clip[:, :1], project).any()
    torch.testing.assert_close(read.motion(clip + 2.0, project), read.motion(clip, project), atol=1e-4, rtol=1e-4)


def test_cls_has_its_own_statistics_where_the_store_gives_them() -> None:
    stats = {
        "a": (torch.zeros(2), torch.ones(2)),
        "a/cls": (torch.full((2,), 4.0), torch.full((2,), 2.0)),
        "b": (torch.ones(2), torch.ones(2)),
    }
    assert cls_norm(stats, "a")(torch.full((2,), 6.0)).tolist() == pytest.approx([1.0, 1.0])
    assert cls_norm(stats, "b")(torch.full((2,), 6.0)).tolist() == pytest.approx([5.0, 5.0])
