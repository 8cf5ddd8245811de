"""What int8 keeps of token maps, on every value that an encoder can give; and what is stored for each dtype."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from d2st.cache.codec import (
    TOKEN_DTYPES,
    as_tensor,
    calibration_bytes,
    decode,
    dequantise,
    quantise,
    safe_deviation,
    stored_arrays,
)
from d2st.cache.seal import is_whole

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))]


def trained_vit(frames=3, channels=96):
    """Maps (frames, 5, 4, C) whose channels differ in scale and offset by two orders of magnitude, and their mean and deviation."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.randn(channels, generator=rng).exp()
    scale[:3] *= 50
    maps = (torch.randn(frames, 5, 4, channels, generator=rng) + torch.randn(channels, generator=rng)) * scale
    return maps, maps.mean(dim=(0, 1, 2)), maps.std(dim=(0, 1, 2))


@pytest.mark.parametrize("device", DEVICES)
def test_every_channel_is_off_by_half_a_step_of_its_own_deviation_at_most(device):
    maps, mean, std = (tensor.to(device) for tensor in trained_vit())
    q, scales = quantise(maps, mean, std)
    assert (q.dtype, q.shape, scales.dtype, scales.shape) == (torch.int8, maps.shape, torch.float16, maps.shape[:-1])
    back = dequantise(q, scales, mean, std)
    assert back.dtype == torch.float32
    off = ((back - maps) / std).abs()  # in deviations
    assert (off <= 0.5001 * scales.float().unsqueeze(-1) + 1e-5).all()
    assert (off.amax(dim=-1) > 0).all()
    error = (back - maps).norm() / maps.norm()
    assert error < 0.01
    naive = quantise(maps, torch.zeros_like(mean), torch.ones_like(std))  # a scale a token and nothing else
    lost = ((dequantise(*naive, torch.zeros_like(mean), torch.ones_like(std)) - maps) / std).square().mean()
    assert lost > 100 * off.square().mean()


def test_the_formula():
    """One token by hand: z = (-1, 2, 0.5), s = 2/127, q = z/s."""
    values, mean, std = torch.tensor([[[[9.0, 30.0, 5.0]]]]), torch.tensor([10.0, 10.0, 4.0]), torch.tensor([1.0, 10.0, 2.0])
    q, scales = quantise(values, mean, std)
    step = np.float16(2 / 127)
    step = step if step >= np.float32(2 / 127) else np.nextafter(step, np.float16(1))
    assert scales.item() == step
    assert q.flatten().tolist() == [round(-1 / float(step)), round(2 / float(step)), round(0.5 / float(step))]
    expected = q.flatten().numpy() * np.float32(step) * std.numpy() + mean.numpy()
    np.testing.assert_allclose(dequantise(q, scales, mean, std).flatten(), expected, rtol=1e-6)


FLOATS = st.floats(-65504, 65504, width=32)


@settings(deadline=None, max_examples=200)
@given(arrays(np.float32, (2, 1, 2, 4), elements=FLOATS), arrays(np.float32, 4, elements=FLOATS), st.data())
def test_nothing_is_cut_off(values, mean, data):
    """Whatever the values, tiny, huge or equal: half a step is the most that is lost, but for float32's own rounding."""
    std = data.draw(arrays(np.float32, 4, elements=st.one_of(st.just(0.0), st.floats(2**-5, 2**10, width=32))))
    values, mean, std = (torch.from_numpy(array) for array in (values, mean, std))
    q, scales = quantise(values, mean, std)
    assert scales.isfinite().all()
    assert q.min() >= -127
    back = dequantise(q, scales, mean, std)
    assert (back[..., std == 0] == mean[std == 0]).all()
    live = std > 0
    off = (back - values)[..., live].abs()
    rounding = 1e-6 * (values.abs() + 2 * mean.abs())[..., live] + 1e-5 * scales.float().unsqueeze(-1) * std[live] * 127
    denormal = 1e-37  # where float32 has no relative precision left
    assert (off <= 0.5 * scales.float().unsqueeze(-1) * std[live] + rounding + denormal).all()


def test_tokens_at_the_mean_come_back_exactly():
    mean, std = torch.randn(8), torch.rand(8) + 0.1
    q, scales = quantise(mean.expand(1, 2, 2, 8), mean, std)
    assert not q.any()
    assert not scales.any()
    assert torch.equal(dequantise(q, scales, mean, std), mean.expand(1, 2, 2, 8))


@pytest.mark.parametrize("z", [1e-9, 1e-6, 3e-5, 1e-3])
def test_the_least_deviations_are_kept(z):
    """Scales below float16's normal numbers are rounded up, so that nothing is cut off."""
    values = torch.tensor([z, -z]).view(1, 1, 1, 2)
    q, scales = quantise(values, torch.zeros(2), torch.ones(2))
    assert scales.float().item() * 127 >= z * (1 - 1e-6)
    assert (dequantise(q, scales, torch.zeros(2), torch.ones(2)) - values).abs().max() <= scales.float().item() / 2


@pytest.mark.parametrize("device", DEVICES)
def test_padding_is_zero_whatever_its_bytes(device):
    maps, mean, std = (tensor.to(device) for tensor in trained_vit(frames=6))
    q, scales = (tensor.unflatten(0, (2, 3)) for tensor in quantise(maps, mean, std))  # (B,T,H,W,C), (B,T,H,W)
    keep = torch.tensor([[True, True, False], [True, False, False]], device=device)
    scales = scales.where(keep[..., None, None], torch.nan)  # as unused memory may look
    back = dequantise(q, scales, mean, std, keep=keep)
    assert not back[~keep].any()
    assert torch.equal(back[keep], dequantise(*quantise(maps, mean, std), mean, std)[keep.flatten()])
    assert mean.any()


def test_a_buffer_is_filled_and_given_back():
    maps, mean, std = trained_vit(frames=4)
    q, scales = quantise(maps, mean, std)
    out = torch.full_like(maps, torch.nan)
    assert dequantise(q, scales, mean, std, out=out) is out
    assert torch.equal(out, dequantise(q, scales, mean, std))
    assert dequantise(q[:0], scales[:0], mean, std).shape == (0, 5, 4, 96)
    large = torch.randint(-127, 128, (3, 16, 16, 512), dtype=torch.int8)  # more than the block that stays in a CPU's cache
    steps, wide = torch.rand(3, 16, 16).half(), torch.rand(512)
    np.testing.assert_allclose(
        dequantise(large, steps, wide, wide), large * steps.float()[..., None] * wide + wide, rtol=1e-5, atol=1e-5
    )


def test_half_precision_goes_in_too():
    maps, mean, std = trained_vit()
    half = quantise(maps.half(), mean, std)[0].int()
    assert (half - quantise(maps, mean, std)[0].int()).abs().max() <= 1


def test_channels_that_stood_still_get_a_deviation():
    std = safe_deviation(torch.tensor([0.0, 1.0, 2.0, 4.0, 1e-9]))
    assert std.tolist() == pytest.approx([0.01, 1, 2, 4, 0.01])
    assert safe_deviation(torch.zeros(5)).tolist() == [1.0] * 5
    assert safe_deviation(torch.tensor([0.0, 0.0, 0.0, 3.0])).tolist() == [1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("dtype", TOKEN_DTYPES)
def test_what_is_stored(dtype):
    layout = stored_arrays(dtype, (14, 14), 768)
    assert [(shape, name) for shape, name in layout.values()][-1] == ((768,), "uint16" if dtype == "bfloat16" else "float16")
    size = sum(int(np.prod(shape)) * np.dtype(name).itemsize for shape, name in layout.values())
    assert size / (2 * 768 * 197) < (0.52 if dtype == "int8" else 1.0001)


def test_stored_maps_become_floats():
    maps, mean, std = trained_vit()
    half, bits = maps.half().numpy(), maps.bfloat16().view(torch.uint16).numpy()
    assert torch.equal(decode(half), maps.half())
    assert torch.equal(decode(bits), maps.bfloat16())
    assert torch.equal(as_tensor(bits).view(torch.uint16), torch.from_numpy(bits))
    q, scales = quantise(maps, mean, std)
    found = decode(q.numpy(), scales.numpy(), (mean.numpy(), std))
    assert torch.equal(found, dequantise(q, scales, mean, std))
    with pytest.raises(ValueError, match="calibration"):
        decode(q.numpy(), scales.numpy())


def test_the_calibration_file_is_sealed():
    data = calibration_bytes({"block_2": (np.ones(3), torch.rand(3))})
    assert is_whole(data)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 4
        assert not is_whole(bytes(broken))
