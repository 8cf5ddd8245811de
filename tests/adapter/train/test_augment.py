"""Augmented token maps: within their class, within their frames, the same for the same seed, and nothing at all when switched off."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.train.augment import interpolate_within, jitter_channels


def clips_of(count, frames, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tokens = {layer: torch.randn(count, frames, 2, 3, 4, generator=generator).to(dtype) for layer in ("a", "b")}
    cls = {layer: torch.randn(count, frames, 4, generator=generator).to(dtype) for layer in ("a", "b")}
    return tokens, cls


def interpolated(tokens, cls, label, mask, *, seed=0, probability=1.0):
    return interpolate_within(tokens, cls, label, mask, probability=probability, generator=torch.Generator().manual_seed(seed))


@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=7),
    lengths=st.lists(st.integers(1, 4), min_size=7, max_size=7),
    probability=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_each_clip_steps_towards_one_other_of_its_label(labels, lengths, probability, seed):
    count, frames = len(labels), 4
    label = torch.tensor(labels)
    mask = torch.arange(frames) < torch.tensor(lengths[:count])[:, None]
    tokens, cls = clips_of(count, frames, seed)
    for values in (*tokens.values(), *cls.values()):
        values[~mask] = torch.nan  # padding: must neither spread nor change
    new_tokens, new_cls = interpolated(tokens, cls, label, mask, seed=seed, probability=probability)
    for i in range(count):
        explained = []
        for j in [i, *(j for j in range(count) if j != i and labels[j] == labels[i])]:
            both = mask[i] & mask[j]
            way, walked = cls["a"][j, 0] - cls["a"][i, 0], new_cls["a"][i, 0] - cls["a"][i, 0]
            t = 0.0 if j == i else float(walked @ way / (way @ way))
            fits = -1e-6 <= t <= 0.5 + 1e-6
            for old, new in [(tokens[k], new_tokens[k]) for k in tokens] + [(cls[k], new_cls[k]) for k in cls]:
                expected = old[i].clone()
                expected[both] += t * (old[j] - old[i])[both]
                fits &= torch.allclose(new[i], expected, atol=1e-5, equal_nan=True)
            explained.append(fits)
        assert any(explained)
        if probability == 1.0 and labels.count(labels[i]) > 1:
            assert not torch.equal(new_cls["a"][i, 0], cls["a"][i, 0])


def test_partners_and_steps_are_uniform():
    label, mask = torch.tensor([0, 0, 0, 1]), torch.ones(4, 1, dtype=torch.bool)
    cls = {"a": torch.eye(4)[:, None]}  # what came from clip j stands in channel j
    made = torch.stack([interpolated({}, cls, label, mask, seed=seed)[1]["a"][0, 0] for seed in range(400)])
    partners, steps = made[:, 1:].argmax(1), made[:, 1:].amax(1)
    assert made[:, 3].abs().max() == 0  # the other label
    assert 150 < int((partners == 0).sum()) < 250
    assert steps.max() < 0.5
    assert steps.mean().item() == pytest.approx(0.25, abs=0.03)
    chosen = torch.stack([interpolated({}, cls, label, mask, seed=s, probability=0.3)[1]["a"][0, 0, 0] for s in range(400)]) < 1
    assert 90 < int(chosen.sum()) < 150


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_stays_and_a_seed_decides(dtype):
    label, mask = torch.tensor([0, 1, 0, 1]), torch.ones(4, 2, dtype=torch.bool)
    tokens, cls = clips_of(4, 2, dtype=dtype)
    kept = {layer: value.clone() for layer, value in tokens.items()}
    with torch.autocast("cpu", torch.bfloat16):
        new, vectors = interpolated(tokens, cls, label, mask, seed=3)
    again, _ = interpolated(tokens, cls, label, mask, seed=3)
    other, _ = interpolated(tokens, cls, label, mask, seed=4)
    for layer in tokens:
        assert new[layer].dtype == vectors[layer].dtype == dtype
        assert torch.equal(new[layer], again[layer])
        assert not torch.equal(new[layer], other[layer])
        assert torch.equal(tokens[layer], kept[layer])  # the loader's memory is not ours to write


def test_switched_off_copies_nothing_and_without_partner_nothing_changes():
    tokens, cls = clips_of(2, 3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    off = interpolated(tokens, cls, torch.tensor([1, 1]), mask, probability=0.0)
    assert off[0] is tokens
    assert off[1] is cls
    alone = interpolated(tokens, cls, torch.tensor([0, 1]), mask)
    assert all(torch.equal(alone[0][layer], tokens[layer]) and torch.equal(alone[1][layer], cls[layer]) for layer in tokens)


def test_channel_jitter_is_its_formula():
    tokens, cls = clips_of(2, 3)
    stats = {name: (torch.full((4,), 1.5), torch.full((4,), 2.0)) for name in ("a", "b", "a/cls", "b/cls")}
    made, vectors = jitter_channels(
        tokens, cls, stats, brightness=0.5, contrast=0.3, generator=torch.Generator().manual_seed(0)
    )
    for layer in tokens:
        gain = (vectors[layer][:, 1] - vectors[layer][:, 0]) / (cls[layer][:, 1] - cls[layer][:, 0])  # (B, C)
        assert ((gain > 0.7) & (gain < 1.3)).all()
        shift = vectors[layer][:, 0] - 1.5 - gain * (cls[layer][:, 0] - 1.5)
        expected = 1.5 + gain[:, None, None, None] * (tokens[layer] - 1.5) + shift[:, None, None, None]
        torch.testing.assert_close(made[layer], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_seed_means_the_same_on_a_gpu():
    label, mask = torch.tensor([0, 1, 0, 1]), torch.ones(4, 2, dtype=torch.bool)
    tokens, cls = clips_of(4, 2, dtype=torch.float16)
    here = interpolated(tokens, cls, label, mask)
    there = interpolated(
        *({layer: value.cuda() for layer, value in maps.items()} for maps in (tokens, cls)), label.cuda(), mask.cuda()
    )
    for a, b in zip(here, there, strict=True):
        for layer in a:
            torch.testing.assert_close(a[layer], b[layer].cpu(), atol=2e-3, rtol=2e-3)
