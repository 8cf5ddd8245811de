"""What is the side network's own: conditioning, gates, presets, time, pooling."""

import numpy as np
import pytest
import torch
from torch import nn

from d2st.adapter.nets import Detector, Head, build_adapter, clip_flops, count_parameters
from d2st.adapter.nets.side import time_embedding
from d2st.adapter.precision import autocast

LAYERS = ("block_0", "block_1", "block_2")


def side(channels: int = 64, layers: tuple[str, ...] = LAYERS, **params) -> nn.Module:
    torch.manual_seed(0)
    stats = {layer: (np.zeros(channels, "f4"), np.ones(channels, "f4")) for layer in layers}
    return build_adapter("d2st", layers=layers, channels=channels, grid=(7, 7), stats=stats, **params).eval()


def inputs(frames: int, channels: int = 64, batch: int = 2):
    torch.manual_seed(3)
    tokens = {layer: torch.randn(batch, frames, 7, 7, channels) for layer in LAYERS}
    cls = {layer: torch.randn(batch, frames, channels) for layer in LAYERS}
    return tokens, cls, torch.ones(batch, frames, dtype=torch.bool)


def test_base_preset_at_published_width_has_the_published_pathways() -> None:
    body = side(768, ("block_0",)).bodies[0][0]
    assert count_parameters(body.spatial) - 2 * 192 == 153_312
    assert count_parameters(body.temporal) - 2 * 192 == 150_864


@pytest.mark.parametrize(
    ("params", "width", "depth"),
    [
        ({}, 16, 1),
        ({"preset": "tiny"}, 16, 1),
        ({"preset": "large"}, 32, 2),
        ({"preset": "large", "width": 24}, 24, 2),
        ({"depth": 3}, 16, 3),
    ],
)
def test_one_dial_sets_the_size(params: dict, width: int, depth: int) -> None:
    network = side(**params)
    assert network.embed_dim == width
    assert [len(group) for group in network.bodies] == [depth] * 3


def test_presets_grow() -> None:
    sizes = [count_parameters(side(256, preset=name)) for name in ("tiny", "base", "large")]
    assert sizes == sorted(set(sizes))


def test_gates_mix_the_layers() -> None:
    """A gate wide open to the past hides the layer; shut, it forgets the past."""
    network = side()
    tokens, cls, mask = inputs(3)
    changed = {key: {**values, "block_2": values["block_2"] * -2} for key, values in (("tokens", tokens), ("cls", cls))}
    with torch.no_grad():
        network.gates.fill_(40.0)
        assert torch.equal(network(tokens, cls, mask)[0], network(changed["tokens"], changed["cls"], mask)[0])
        network.gates.fill_(-40.0)
        first = {key: {**values, "block_0": values["block_0"] * -2} for key, values in (("tokens", tokens), ("cls", cls))}
        torch.testing.assert_close(network(tokens, cls, mask)[0], network(first["tokens"], first["cls"], mask)[0])
        assert not torch.allclose(network(tokens, cls, mask)[0], network(changed["tokens"], changed["cls"], mask)[0])


def test_time_enters_through_its_scale_alone_where_bodies_are_the_identity() -> None:
    """Flat scores: the start is a mean of frames, and order matters only once something is learned."""
    network = side()
    with torch.no_grad():
        for bodies in network.bodies:
            bodies[0].up.weight.zero_()
            bodies[0].up.bias.zero_()
    tokens, cls, mask = inputs(5)
    flipped = [{k: v.flip(1) for k, v in d.items()} for d in (tokens, cls)]
    torch.testing.assert_close(network(*flipped, mask)[0], network(tokens, cls, mask)[0])
    with torch.no_grad():
        network.time_scale.fill_(0.5)
        assert not torch.allclose(network(*flipped, mask)[0], network(tokens, cls, mask)[0], atol=1e-3)


def test_clip_logit_is_a_weighted_mean_of_frame_logits() -> None:
    network = side()
    torch.nn.init.normal_(network.frame_pool.score.weight)
    out = Detector(network, Head(network.embed_dim))(*inputs(6))
    weights = network.frame_pool.score(out.frame_embeddings).softmax(dim=1)[..., 0]
    torch.testing.assert_close(out.clip_logit, (weights * out.frame_logits).sum(1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_no_copy_of_the_maps_is_kept_for_the_backward_pass(dtype: torch.dtype | None) -> None:
    """They are by far the widest thing in a step: four layers of twelve frames of L/14 are 25 MB a clip, as they are cached."""
    network = side().train()
    tokens, cls, mask = inputs(4, batch=8)
    tokens = {layer: values.half() for layer, values in tokens.items()}
    kept: dict[int, int] = {}  # storage -> bytes

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with autocast(torch.device("cpu"), dtype), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(tokens, cls, mask)
    maps = {values.untyped_storage().data_ptr() for values in tokens.values()}
    assert maps <= kept.keys()
    size = next(iter(tokens.values())).nbytes
    assert max(size_kept for place, size_kept in kept.items() if place not in maps) <= size * (2 if dtype is None else 1) / 3


def test_dropout_acts_in_training_only() -> None:
    network = side(dropout=0.5)
    torch.nn.init.normal_(network.bodies[0][0].up.weight)
    data = inputs(2)
    assert torch.equal(network(*data)[0], network(*data)[0])
    network.train()
    assert not torch.equal(network(*data)[0], network(*data)[0])


def test_time_embedding_is_defined_for_any_length_and_does_not_depend_on_it() -> None:
    long = time_embedding(300, 16)
    assert torch.equal(time_embedding(7, 16), long[:7])
    assert long.abs().max() <= 1
    assert torch.cdist(long, long).fill_diagonal_(1).min() > 1e-2  # no two frames look alike


def test_clip_flops_counts_two_a_multiply_add_and_leaves_the_mode_alone() -> None:
    network = side().train()
    linear = Detector(
        build_adapter("linear_probe", layers=("a",), channels=64, grid=(7, 7), stats={"a": (np.zeros(64), np.ones(64))}),
        Head(64),
    )
    assert clip_flops(linear, layers=("a",), channels=64, grid=(7, 7), frames=3) == 2 * 64 * (1 + 3)
    one, three = (clip_flops(network, layers=LAYERS, channels=64, grid=(7, 7), frames=t) for t in (4, 12))
    assert 2.5 < three / one < 3.5
    assert network.training
