"""The optimiser's groups, the schedule's shape, averaged weights, and augmentation of values."""

import pytest
import torch
from torch import nn

from d2st.adapter.train.augment import jitter_channels
from d2st.adapter.train.optim import Ema, cosine_factor, make_optimizer, set_rate, unmatched_rates


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial, self.temporal = nn.Linear(3, 2), nn.Linear(3, 2)
        self.norm, self.gates = nn.LayerNorm(2), nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_decay_on_matrices_alone_and_rates_by_name():
    net = Net()
    optimizer = make_optimizer(net, lr=1.0, weight_decay=0.1, rates={"spatial": 0.2, "spatial.bias": 0.5})
    set_rate(optimizer, 0.01)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    named = {name: found.get(id(p)) for name, p in net.named_parameters()}
    assert named["spatial.weight"] == (pytest.approx(0.002), 0.1)
    assert named["spatial.bias"] == (pytest.approx(0.005), 0.0)
    assert named["temporal.weight"] == (0.01, 0.1)
    assert named["norm.weight"] == named["gates"] == (0.01, 0.0)
    assert named["frozen"] is None
    assert unmatched_rates(net, {"spatial": 0.2, "spatail": 0.1}) == ["spatail"]


def test_cosine_climbs_for_a_tenth_and_falls_to_almost_nothing():
    factors = [cosine_factor(step, steps=100, warmup_ratio=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    assert cosine_factor(0, steps=1, warmup_ratio=0.1) == 1.0


def test_average_follows_the_formula_and_is_taken_back():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema = Ema(net, decay=0.9)
    with torch.no_grad():
        net.weight.fill_(1.0)
    ema.update(step=0)  # d = 1/10
    assert ema.averages["weight"].item() == pytest.approx(0.9)
    ema.update(step=1000)  # d = 0.9
    assert ema.averages["weight"].item() == pytest.approx(0.91)
    with ema.applied():
        assert net.weight.item() == pytest.approx(0.91)
    assert net.weight.item() == 1.0


def test_channel_jitter_has_the_size_asked_for_and_one_draw_a_clip():
    tokens = {"a": torch.zeros(64, 3, 2, 2, 8, dtype=torch.float16)}
    cls = {"a": torch.zeros(64, 3, 8, dtype=torch.float16)}
    stats = {"a": (torch.zeros(8), torch.arange(1.0, 9.0)), "a/cls": (torch.zeros(8), torch.ones(8))}

    def jitter(seed, **sizes):
        return jitter_channels(tokens, cls, stats, generator=torch.Generator().manual_seed(seed), **sizes)

    maps, vectors = jitter(0, brightness=0.5, contrast=0.0)
    assert maps["a"].dtype == torch.float16
    spread = maps["a"][:, 0, 0, 0].float().std(0) / torch.arange(1.0, 9.0)
    assert spread.mean().item() == pytest.approx(0.5, rel=0.15)
    assert (maps["a"] == maps["a"][:, :1, :1, :1]).all()
    assert torch.allclose(
        maps["a"][:, 0, 0, 0].float(), vectors["a"][:, 0].float() * torch.arange(1.0, 9.0), rtol=2e-3, atol=1e-3
    )
    assert (jitter(0, brightness=0.5, contrast=0.0)[0]["a"] == maps["a"]).all()
    assert (jitter(1, brightness=0.5, contrast=0.0)[0]["a"] != maps["a"]).any()
    assert (jitter(0, brightness=0.0, contrast=0.9)[0]["a"] == 0).all()  # values at the mean have no contrast


def test_contrast_stretches_about_the_mean():
    cls = {"a": torch.full((512, 1, 1), 3.0)}
    stats = {"a/cls": (torch.ones(1), torch.ones(1))}
    _, made = jitter_channels({}, cls, stats, brightness=0.0, contrast=0.5, generator=torch.Generator().manual_seed(0))
    assert made["a"].min() >= 2.0  # 1 + 0.5 * (3 - 1)
    assert made["a"].max() <= 4.0
    assert made["a"].max() - made["a"].min() > 1.8
