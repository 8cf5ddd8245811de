"""The read of a layer: whitening and motion by their formulas, and what they must not depend on."""

import pytest
import torch
from torch import Tensor, nn

from d2st.adapter.nets.read import PatchRead, change


def correlated(*shape: int) -> Tensor:
    """Tokens (*shape, 6) most of whose variance lies in one direction, as CLIP's does."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(*shape, 1, generator=generator) * torch.linspace(1, 3, 6)
    return common + torch.randn(*shape, 6, generator=generator) * torch.linspace(1.0, 2.0, 6) + 5.0


def fitted(width: int = 6, *, motion: bool = False) -> PatchRead:
    torch.manual_seed(1)
    tokens = correlated(5000)
    made = PatchRead(tokens.mean(0), tokens.std(0, correction=0), width, motion_width=3)
    standard = made.channel_norm(tokens).double()
    made.set_whitening(standard.T @ standard / len(standard))
    if motion:
        nn.init.normal_(made.motion_join.weight)
    return made


def formula(read: PatchRead, clips: Tensor) -> Tensor:
    """The module's docstring, frame by frame in float64; clips (B, T, H, W, C)."""
    read = read.double()
    white = read.channel_norm(clips.double()) @ read.whitening
    z = read.project(white)
    out = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    moved = read.motion(white)
    for t in range(clips.shape[1]):
        near = [abs(moved[:, t] - moved[:, s]) for s in (t - 1, t + 1) if 0 <= s < clips.shape[1]]
        if near:
            out[:, t] += read.motion_join(sum(near) / len(near))
    read.float()
    return out


def test_whitened_channels_are_uncorrelated_with_unit_variance() -> None:
    tokens, read = correlated(5000), fitted()
    white = read.channel_norm(tokens) @ read.whitening
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6), atol=2e-3, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_it_is_the_formula(frames: int) -> None:
    clips, read = correlated(2, frames, 3, 2), fitted(8, motion=True)
    torch.testing.assert_close(read(clips).double(), formula(read, clips), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 4])
def test_bfloat16_is_the_formula_to_a_few_per_cent(frames: int) -> None:
    clips, read = correlated(2, frames, 3, 2), fitted(8, motion=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = read(clips)
    exact = formula(read, clips)
    assert rounded.dtype is torch.bfloat16
    assert (rounded.double() - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("frames", [1, 3])
def test_a_share_scales_all_of_it_and_gets_its_gradient(frames: int) -> None:
    clips, read = correlated(1, frames, 2, 2), fitted(motion=True)
    share = torch.tensor(0.25, requires_grad=True)
    out = read(clips, share=share)
    torch.testing.assert_close(out, read(clips) * 0.25)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    (out * weight).sum().backward()
    torch.testing.assert_close(share.grad, (read(clips) * weight).sum().detach())


def test_gradients_of_every_parameter() -> None:
    read = fitted(4, motion=True).double()
    clips = correlated(1, 3, 2, 1).double()
    names = [name for name, _ in read.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(read, dict(zip(names, values, strict=True)), (clips,))

    assert torch.autograd.gradcheck(run, tuple(value.detach().requires_grad_() for value in read.parameters()))


def test_change_is_the_mean_change_to_both_neighbours() -> None:
    z = torch.tensor([0.0, 3.0, 3.0, 1.0]).view(1, 4, 1)  # changes: 3, 0, 2
    assert change(z).flatten().tolist() == [3.0, 1.5, 1.0, 2.0]


def test_a_constant_offset_moves_nothing() -> None:
    clips, read = correlated(2, 3, 2, 2), fitted(motion=True)
    still = clips[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(read(still), read(still[:, :1]).expand(-1, 3, -1, -1, -1), atol=1e-5, rtol=1e-5)


def test_whitening_travels_with_the_weights() -> None:
    read, other = fitted(), PatchRead(torch.zeros(6), torch.ones(6), 6, motion_width=3)
    other.load_state_dict(read.state_dict())
    clips = correlated(1, 2, 2, 2)
    assert torch.equal(other(clips), read(clips))
