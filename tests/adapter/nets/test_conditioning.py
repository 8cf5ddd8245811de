"""Channel statistics and whitening: reference values, and the cases that break naive code."""

import numpy as np
import pytest
import torch

from d2st.adapter.nets.conditioning import EIGENVALUE_FLOOR, ChannelNorm, cls_norm, whitening_matrix


def test_weak_directions_stay_weak() -> None:
    """A direction below the floor is scaled as one at the floor: rounding must not be blown up to a signal."""
    values = torch.tensor([3.0, 0.9999, 0.0001], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    scale = torch.linalg.eigvalsh(whitening_matrix((turn * values) @ turn.T)).sort().values
    expected = torch.tensor([3.0**-0.5, 0.9999**-0.5, EIGENVALUE_FLOOR**-0.5], dtype=torch.float64)
    torch.testing.assert_close(scale, expected)


def test_channels_that_never_move_are_survived() -> None:
    mean, std = np.array([3.0, -2.0, 0.5], "f4"), np.array([2.0, 0.0, 1e-30], "f4")
    norm = ChannelNorm(mean, std)
    out = norm(torch.tensor([[5.0, -2.0, 0.5], [3.0, 60000.0, 0.5]], dtype=torch.float16))
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert out[1, 1] <= 60002 * 1000 / std.mean() + 1


@pytest.mark.parametrize("bad", [(np.zeros(3), np.full(3, np.nan)), (np.zeros(3), np.ones(4))], ids=["nan", "lengths"])
def test_broken_statistics_are_refused(bad: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="channel statistics"):
        ChannelNorm(*bad)


def test_cls_has_its_own_statistics_where_the_store_gives_them() -> None:
    stats = {
        "a": (torch.zeros(2), torch.ones(2)),
        "a/cls": (torch.full((2,), 4.0), torch.full((2,), 2.0)),
        "b": (torch.ones(2), torch.ones(2)),
    }
    assert cls_norm(stats, "a")(torch.full((2,), 6.0)).tolist() == pytest.approx([1.0, 1.0])
    assert cls_norm(stats, "b")(torch.full((2,), 6.0)).tolist() == pytest.approx([5.0, 5.0])
