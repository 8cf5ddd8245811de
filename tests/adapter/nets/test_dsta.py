"""The two exact rewritings inside aDSTA: gathering by bags instead of `grid_sample`, and kernels fitted to small volumes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.nets.d2st_body import D2STBody
from d2st.adapter.nets.dsta import fit_kernel, sample


@pytest.mark.parametrize(("frames", "grid"), [(1, (5, 6)), (3, (4, 7)), (12, (14, 14))], ids=str)
def test_sampling_equals_grid_sample_with_zero_padding(frames: int, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    normal = torch.randn(2, frames, 1 + grid[0] * grid[1], 8, dtype=torch.float64)
    place = torch.empty(2, 20, 4, 3, dtype=torch.float64).uniform_(-1.6, 1.6)  # (B, n, heads, 3), many outside
    cells = (place + 1) * (torch.tensor((frames, *grid)) - 1) / 2
    samples, inside = sample(normal, cells, grid)

    volume = (
        normal[:, :, 1:].unflatten(2, grid).unflatten(-1, (4, 2)).permute(0, 4, 5, 1, 2, 3).flatten(0, 1)
    )  # (B*4, 2, T, H, W)
    at = place.permute(0, 2, 1, 3).flatten(0, 1)[:, :, None, None].flip(-1)  # (B*4, n, 1, 1, xyz)
    expected = F.grid_sample(volume, at, align_corners=True)[..., 0, 0].unflatten(0, (2, 4)).permute(0, 3, 1, 2)
    torch.testing.assert_close(samples, expected)
    weight = (
        F.grid_sample(torch.ones_like(volume[:, :1]), at, align_corners=True)[..., 0, 0]
        .unflatten(0, (2, 4))
        .permute(0, 3, 1, 2)
    )
    torch.testing.assert_close(inside, weight)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_a_fitted_kernel_sees_a_small_volume_repeated_to_its_size(kernel, extent, stride) -> None:
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64)
    volume = torch.randn(1, 2, *extent, dtype=torch.float64)
    fitted, steps = fit_kernel(weight, stride, extent)
    assert fitted.shape[2:] == tuple(map(min, kernel, extent))
    repeated = volume
    for axis, (taps, cells) in enumerate(zip(kernel, extent, strict=True), start=2):
        if cells < taps:
            repeated = repeated.index_select(axis, torch.arange(taps) * cells // taps)
    expected = F.conv3d(repeated, weight, stride=stride, groups=2)
    torch.testing.assert_close(F.conv3d(volume, fitted, stride=steps, groups=2), expected)


def test_a_kernel_that_fits_is_left_alone() -> None:
    weight = torch.randn(2, 1, 4, 5, 5)
    fitted, stride = fit_kernel(weight, (4, 3, 3), (4, 5, 9))
    assert fitted is weight
    assert stride == (4, 3, 3)


@pytest.mark.parametrize(
    ("frames", "spatial", "temporal"), [(1, 16, 4), (3, 16, 12), (4, 16, 16), (8, 32, 32), (12, 48, 48), (13, 48, 52)]
)
def test_number_of_places(frames: int, spatial: int, temporal: int) -> None:
    """The densities of the paper's figure, <2,4,4> and <8,2,2> at T=8, and those of shorter and longer clips."""
    body = D2STBody(8, 8)
    query = torch.randn(1, frames, 1 + 14 * 14, 8)
    assert body.spatial.places(query, (14, 14)).shape == (1, spatial, 4, 3)
    assert body.temporal.places(query, (14, 14)).shape == (1, temporal, 4, 3)


def test_with_zero_offsets_it_looks_where_the_published_code_looks() -> None:
    body = D2STBody(8, 8)
    torch.nn.init.zeros_(body.spatial.offset_point.weight)
    torch.nn.init.zeros_(body.temporal.offset_point.weight)
    query = torch.randn(1, 12, 1 + 14 * 14, 8)
    z = body.temporal.places(query, (14, 14))[..., 0]
    y = body.spatial.places(query, (14, 14))[..., 1]
    assert z.unique().tolist() == pytest.approx([11 * (i + 0.5) / 12 for i in range(12)], abs=1e-5)  # 0.46 ... 10.54
    assert sorted({round(v, 3) for v in y.flatten().tolist()}) == [1.625, 4.875, 8.125, 11.375]
