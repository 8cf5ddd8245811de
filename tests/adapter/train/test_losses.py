"""Losses against numbers worked out by hand or by loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.train.losses import clip_loss, consistency, coral, frame_loss, supcon
from d2st.cache.errors import ConfigError


def test_cross_entropy_by_hand():
    logit, label = torch.tensor([0.0, math.log(3)]), torch.tensor([1, 0])
    # p = 1/2 and 3/4: -(log 1/2 + log 1/4) / 2
    assert clip_loss(logit, label).item() == pytest.approx(1.5 * math.log(2))
    # targets 0.9 and 0.1: -(log 1/2 + 0.1 log 3/4 + 0.9 log 1/4) / 2
    expected = (math.log(2) - 0.1 * math.log(0.75) - 0.9 * math.log(0.25)) / 2
    assert clip_loss(logit, label, smoothing=0.2).item() == pytest.approx(expected)


def test_frame_loss_weighs_clips_equally_and_ignores_padding():
    logits = torch.tensor([[0.0, math.log(3), 99.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # first clip: (log 2 + log 4) / 2 for a real; second: log 2
    assert frame_loss(logits, torch.tensor([0, 1]), mask).item() == pytest.approx((1.5 * math.log(2) + math.log(2)) / 2)


def test_padding_has_no_gradient_even_when_it_is_nan():
    logits = torch.tensor([[0.5, float("nan")]], requires_grad=True)
    frame_loss(logits, torch.tensor([1]), torch.tensor([[True, False]])).backward()
    assert logits.grad[0, 0].isfinite()
    assert logits.grad[0, 1] == 0


def test_focal_by_hand():
    logit, label = torch.tensor([0.0, math.log(3)]), torch.tensor([1, 0])
    # p = 1/2 and 3/4: (1/2)^2 log 2 and (3/4)^2 log 4
    assert clip_loss(logit, label, kind="focal").item() == pytest.approx((0.25 * math.log(2) + 0.5625 * math.log(4)) / 2)
    # eps = 0.2 softens 0 to 0.1: 0.1 (1/4)^2 log 4/3 + 0.9 (3/4)^2 log 4
    found = clip_loss(logit[1:], label[1:], kind="focal", gamma=2.0, smoothing=0.2).item()
    assert found == pytest.approx(0.1 / 16 * math.log(4 / 3) + 0.9 * 0.5625 * math.log(4))


def test_balanced_by_hand():
    logit, label = torch.tensor([0.0, math.log(3), 0.0]), torch.tensor([1, 0, 0])
    found = clip_loss(logit, label, kind="balanced", class_weight=(0.75, 1.5)).item()
    assert found == pytest.approx((1.5 * math.log(2) + 0.75 * math.log(4) + 0.75 * math.log(2)) / 3)
    with pytest.raises(ConfigError, match="weights of both labels"):
        clip_loss(logit, label, kind="balanced")


def slow_loss(logit, label, kind, gamma, class_weight, smoothing):
    """One logit, in Python floats, as the docstring has it."""
    p = 1 / (1 + math.exp(-logit))
    y = (1 - smoothing) * label + smoothing / 2
    fake, real = -y * math.log(p), -(1 - y) * math.log(1 - p)
    if kind == "focal":
        return (1 - p) ** gamma * fake + p**gamma * real
    return (fake + real) * (class_weight[label] if kind == "balanced" else 1)


KINDS = st.sampled_from(["bce", "focal", "balanced"])
LOGIT = st.floats(-8, 8, width=32)


@given(
    clips=st.lists(st.tuples(st.lists(LOGIT, min_size=1, max_size=4), st.integers(0, 1)), min_size=1, max_size=5),
    kind=KINDS,
    gamma=st.floats(0, 5),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    weights=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    padding=st.sampled_from([0.0, 1e4, math.nan, math.inf]),
)
@settings(max_examples=80, deadline=None)
def test_every_kind_is_its_formula_and_padding_is_nothing(clips, kind, gamma, smoothing, weights, padding):
    how = {"kind": kind, "gamma": gamma, "class_weight": weights, "smoothing": smoothing}
    longest = max(len(frames) for frames, _ in clips)
    logits = torch.tensor([frames + [padding] * (longest - len(frames)) for frames, _ in clips])
    mask = torch.tensor([[True] * len(frames) + [False] * (longest - len(frames)) for frames, _ in clips])
    label = torch.tensor([label for _, label in clips])
    each = [[slow_loss(x, y, kind, gamma, weights, smoothing) for x in frames] for frames, y in clips]
    logits.requires_grad_()
    loss = frame_loss(logits, label, mask, **how)
    assert loss.item() == pytest.approx(sum(sum(part) / len(part) for part in each) / len(each), rel=1e-4, abs=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all()
    first = clip_loss(logits.detach()[:, 0], label, **how).item()
    assert first == pytest.approx(sum(part[0] for part in each) / len(each), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("how", [{"kind": "focal", "gamma": 0.0}, {"kind": "balanced", "class_weight": (1.0, 1.0)}])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_focus_and_with_equal_labels_all_are_cross_entropy(how, smoothing):
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 20  # far out, too
    label, mask = torch.tensor([0, 1, 0, 1, 0, 1]), torch.ones(6, 3, dtype=torch.bool)
    for found, plain in (
        (clip_loss(logits[:, 0], label, **how, smoothing=smoothing), clip_loss(logits[:, 0], label, smoothing=smoothing)),
        (frame_loss(logits, label, mask, **how, smoothing=smoothing), frame_loss(logits, label, mask, smoothing=smoothing)),
    ):
        torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("kind", ["bce", "focal", "balanced"])
def test_gradients_are_those_of_finite_differences_and_parts_add_up(kind):
    generator = torch.Generator().manual_seed(1)
    logit, label = torch.randn(8, generator=generator) * 2, torch.arange(8) % 2
    how = {"kind": kind, "gamma": 2.0, "class_weight": (0.6, 3.0), "smoothing": 0.1}
    logit.requires_grad_()
    clip_loss(logit, label, **how).backward()
    h = 1e-3
    for i in range(8):
        x, y = logit[i].item(), int(label[i])
        args = (y, kind, 2.0, (0.6, 3.0), 0.1)
        slope = (slow_loss(x + h, *args) - slow_loss(x - h, *args)) / (2 * h) / 8
        assert logit.grad[i].item() == pytest.approx(slope, abs=1e-5)
    parts = [clip_loss(logit[part], label[part], **how) * len(logit[part]) / 8 for part in (slice(3), slice(3, 8))]
    torch.testing.assert_close(sum(parts), clip_loss(logit, label, **how))  # as ranks and accumulation rely on


def test_focal_stays_finite_where_a_logit_is_certain():
    logit = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = clip_loss(logit, torch.tensor([1, 0, 0, 1]), kind="focal")
    assert loss.item() == pytest.approx(100.0)
    loss.backward()
    assert logit.grad.tolist() == pytest.approx([0, 0, 0.25, -0.25])


def slow_supcon(embedding, label, group, temperature):
    z = [row / row.norm() for row in embedding.double()]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if group[a] != group[i]]
        positives = [p for p in others if label[p] == label[i]]
        if positives:
            total = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
            terms.append(-sum(math.log(math.exp(float(z[i] @ z[p]) / temperature) / total) for p in positives) / len(positives))
    return sum(terms) / len(terms) if terms else 0.0


@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_supcon_is_the_formula(count, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(count, 5, generator=generator)
    label, group = (torch.randint(0, 2, (count,), generator=generator) for _ in range(2))
    found = supcon(embedding, label, group, temperature=temperature).item()
    assert found == pytest.approx(slow_supcon(embedding, label, group, temperature), abs=1e-4)


def test_supcon_by_hand_and_without_positives():
    embedding = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    label, group = torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1])
    # anchor 0: positive 1 (similarity 1), negative 2 (0): log(1 + e^-1); anchor 1: its only candidate is its positive: 0; anchor 2: none
    loss = supcon(embedding, label, group, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) / 2)
    loss.backward()
    assert embedding.grad.isfinite().all()
    alone = supcon(embedding, label, torch.zeros(3, dtype=torch.long))
    assert alone.item() == 0
    embedding.grad = None
    alone.backward()
    assert embedding.grad is None or (embedding.grad == 0).all()


def test_coral_by_hand():
    source = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # covariance [[2, 2], [2, 2]]
    target = torch.tensor([[5.0, 0.0], [5.0, 4.0]])  # covariance [[0, 0], [0, 8]]
    # |[[2, 2], [2, -6]]|^2 / (4 * 4) = 48 / 16
    assert coral(source, target).item() == pytest.approx(3.0)
    assert coral(source + 7, source).item() == pytest.approx(0.0, abs=1e-6)
    assert coral(source[:1], target).item() == 0


def test_consistency_by_hand_and_teaches_one_way():
    clip = torch.tensor([math.log(3), 0.0], requires_grad=True)
    frame = torch.tensor([0.0, 0.0], requires_grad=True)
    # KL(3/4 || 1/2) = 3/4 log 3/2 + 1/4 log 1/2, and 0
    loss = consistency(clip, frame)
    assert loss.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, abs=1e-6)
    loss.backward()
    assert clip.grad is None
    assert frame.grad[0] < 0  # towards the clip's higher score


def test_losses_are_float32_from_half_precision():
    half = torch.randn(4, 3).bfloat16()
    label, group = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    made = [
        *(clip_loss(half[:, 0], label, kind=kind, class_weight=(1, 2)) for kind in ("bce", "focal", "balanced")),
        frame_loss(half, label, torch.ones(4, 3, dtype=torch.bool)),
        supcon(half, label, group),
        coral(half[:2], half[2:]),
        consistency(half[:, 0], half[:, 1]),
    ]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in made)


def test_alignment_losses_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding, label, group = torch.randn(12, 8, generator=generator), torch.arange(12) % 2, torch.arange(12) // 6
    plain = supcon(embedding, label, group), coral(embedding[:6], embedding[6:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = supcon(embedding, label, group), coral(embedding[:6], embedding[6:])
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)
