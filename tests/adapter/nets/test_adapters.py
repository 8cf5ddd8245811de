"""The contract of every registered adapter. A new one is picked up here by itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2st.adapter.nets import (
    Detector,
    Head,
    Output,
    adapter_names,
    adapter_params,
    adapter_summary,
    build_adapter,
    clip_flops,
    count_parameters,
)
from d2st.adapter.precision import autocast
from d2st.cache.errors import ConfigError, UnknownNameError

LAYERS, CHANNELS, GRID = ("block_3", "block_7"), 32, (6, 5)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def stats() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {n: (rng.normal(size=CHANNELS).astype("f4"), rng.uniform(0.1, 20, CHANNELS).astype("f4")) for n in LAYERS}


def make(name: str, *, seed: int = 0, shaken: bool = True) -> nn.Module:
    """An adapter whose parameters are all away from their neutral start, so that every path is felt."""
    torch.manual_seed(seed)
    adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats())
    if shaken:
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return adapter.eval()


def features(batch: int, frames: int, *, seed: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=generator) * 5  # noqa: E731
    return (
        {layer: draw(batch, frames, *GRID, CHANNELS) for layer in LAYERS},
        {layer: draw(batch, frames, CHANNELS) for layer in LAYERS},
    )


def mask_of(lengths: list[int], frames: int) -> Tensor:
    return torch.arange(frames) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("name", adapter_names())
class TestContract:
    @pytest.mark.parametrize("frames", range(1, 14))
    def test_shapes_and_finite_gradients_at_any_length(self, name: str, frames: int) -> None:
        adapter = make(name)
        tokens, cls = features(2, frames)
        tokens = tokens if adapter.needs_maps else {}
        detector = Detector(adapter, Head(adapter.embed_dim))
        out = detector(tokens, cls, mask_of([frames] * 2, frames))
        assert isinstance(out, Output)
        assert [tuple(t.shape) for t in out] == [(2,), (2, frames), (2, adapter.embed_dim), (2, frames, adapter.embed_dim)]
        out.clip_logit.sum().backward()  # the clip alone must reach every parameter
        for key, parameter in detector.named_parameters():
            if frames == 1 and ".motion" in key:  # a still has none
                continue
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key

    def test_a_padded_frame_changes_nothing(self, name: str) -> None:
        adapter = make(name)
        lengths, frames = [5, 2, 3, 5, 1], 5
        tokens, cls = features(5, frames)
        mask = mask_of(lengths, frames)
        dirty = [
            {k: v.masked_fill(~mask.view(5, frames, *[1] * (v.dim() - 2)), float("nan")) for k, v in d.items()}
            for d in (tokens, cls)
        ]
        embedding, per_frame = adapter(*dirty, mask)
        assert not per_frame[~mask].any()
        for row, length in enumerate(lengths):
            alone, alone_frames = adapter(
                *({k: v[row : row + 1, :length] for k, v in d.items()} for d in (tokens, cls)), mask_of([length], length)
            )
            torch.testing.assert_close(embedding[row], alone[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(per_frame[row, :length], alone_frames[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
    def test_padding_leaves_logits_and_gradients_finite_and_unchanged(self, name: str, dtype: torch.dtype | None) -> None:
        """Bit for bit, in training mode, whatever the padded frames hold."""
        tokens, cls = features(3, 4)
        mask = mask_of([4, 2, 1], 4)
        found = []
        for filler in (0.0, 7.0, float("nan"), float("inf")):
            adapter = make(name).train()
            detector = Detector(adapter, Head(adapter.embed_dim))
            nn.init.ones_(detector.head.linear.weight)
            spoilt = [
                {k: v.masked_fill(~mask.view(3, 4, *[1] * (v.dim() - 2)), filler) for k, v in d.items()} for d in (tokens, cls)
            ]
            with autocast(torch.device("cpu"), dtype):
                out = detector(*spoilt, mask)
            (out.clip_logit.sum() + out.frame_logits.sum()).backward()
            found.append([*out, *(p.grad for p in detector.parameters())])
        for values in zip(*found, strict=True):
            assert values[0].isfinite().all()
            assert all(torch.equal(value, values[0]) for value in values[1:])

    def test_clips_of_a_batch_are_independent(self, name: str) -> None:
        adapter = make(name)
        tokens, cls = features(3, 4)
        mask = mask_of([4, 4, 4], 4)
        before = adapter(tokens, cls, mask)[0][0]
        other_tokens, other_cls = ({k: torch.cat([v[:1], v[1:] * -3]) for k, v in d.items()} for d in (tokens, cls))
        assert torch.equal(adapter(other_tokens, other_cls, mask)[0][0], before)

    def test_bfloat16_gradients_of_many_tokens_hold(self, name: str) -> None:
        """A sum over thousands of tokens must not be taken in bfloat16: it stops growing at 256 times its next part."""
        torch.manual_seed(0)
        adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats()).train()
        detector = Detector(adapter, Head(adapter.embed_dim))
        nn.init.normal_(detector.head.linear.weight)
        generator = torch.Generator().manual_seed(1)
        tokens = {layer: torch.randn(16, 12, *GRID, CHANNELS, generator=generator) for layer in LAYERS}
        cls = {layer: torch.randn(16, 12, CHANNELS, generator=generator) for layer in LAYERS}
        found = []
        for dtype in (None, torch.bfloat16):
            detector.zero_grad()
            torch.manual_seed(2)  # dropout's masks
            with autocast(torch.device("cpu"), dtype):
                out = detector(tokens, cls, mask_of([12] * 16, 12))
            (out.clip_logit.float().sum() + out.frame_logits.float().mean()).backward()
            found.append({key: p.grad.clone() for key, p in detector.named_parameters()})
        total = sum(g.square().sum() for g in found[0].values()).sqrt()
        for key, exact in found[0].items():
            if exact.norm() > 0.03 * total:  # below it are those through the places, whose gradient jumps from cell to cell
                assert (found[1][key] - exact).norm() < 0.1 * exact.norm(), key

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_reads_every_cached_dtype(self, name: str, dtype: torch.dtype) -> None:
        adapter = make(name)
        tokens, cls = features(2, 4)
        mask = mask_of([4, 3], 4)
        exact = adapter(tokens, cls, mask)[0]
        stored = adapter(*({k: v.to(dtype) for k, v in d.items()} for d in (tokens, cls)), mask)[0]
        assert stored.dtype == torch.float32
        assert (stored - exact).norm() / exact.norm() < TOLERANCE[dtype]

    def test_bfloat16_autocast_stays_close(self, name: str) -> None:
        adapter = make(name)
        detector = Detector(adapter, Head(adapter.embed_dim))
        tokens, cls = features(2, 4)
        mask = mask_of([4, 3], 4)
        exact = detector(tokens, cls, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = detector(tokens, cls, mask)
        assert mixed.clip_logit.dtype == torch.float32
        assert (mixed.embedding - exact.embedding).norm() / exact.embedding.norm() < 0.1

    def test_same_seed_same_network_and_state_round_trip(self, name: str) -> None:
        tokens, cls = features(2, 3)
        mask = mask_of([3, 1], 3)
        first, twin, other = make(name), make(name), make(name, seed=9, shaken=False)
        assert torch.equal(first(tokens, cls, mask)[0], twin(tokens, cls, mask)[0])
        other.load_state_dict(first.state_dict())
        assert torch.equal(first(tokens, cls, mask)[0], other(tokens, cls, mask)[0])

    def test_one_frame_is_its_own_clip(self, name: str) -> None:
        adapter = make(name)
        out = Detector(adapter, Head(adapter.embed_dim))(*features(3, 1), mask_of([1] * 3, 1))
        torch.testing.assert_close(out.clip_logit, out.frame_logits[:, 0])

    @pytest.mark.parametrize("mask", [[[True, False, True]], [[False, True, True]], [[False, False, False]]], ids=str)
    def test_refuses_masks_that_are_no_prefix(self, name: str, mask: list[list[bool]]) -> None:
        with pytest.raises(ValueError, match="padding must come after"):
            make(name)(*features(1, 3), torch.tensor(mask))

    def test_unknown_parameter_names_the_key_and_the_known_ones(self, name: str) -> None:
        with pytest.raises(ConfigError, match="wiidth") as caught:
            adapter_params(name, {"wiidth": 8})
        for key in type(adapter_params(name, {})).model_fields:
            assert key in str(caught.value)

    def test_says_what_it_is_and_what_it_costs(self, name: str) -> None:
        assert adapter_summary(name)
        assert all(field.description for field in type(adapter_params(name, {})).model_fields.values())
        size = {"layers": LAYERS, "channels": CHANNELS, "grid": GRID}
        one, six = (clip_flops(make(name), **size, frames=frames) for frames in (1, 6))
        assert 0 <= one <= six


def test_unknown_adapter_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="d2st"):
        build_adapter("d3st", layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": ("block_9",)}, "block_9"),
        ({"layers": ()}, "at least one"),
        ({"channels": 31}, "31"),
        ({"width": 12}, "width"),
        ({"dropout": 1.0}, "dropout"),
    ],
    ids=str,
)
def test_a_wrong_build_is_refused_before_any_work(change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_adapter("d2st", **{"layers": LAYERS, "channels": CHANNELS, "grid": GRID, "stats": stats(), **change})


@pytest.mark.parametrize("name", [name for name in adapter_names() if name != "linear_probe"])
def test_one_dial_sets_the_size(name: str) -> None:
    sizes = []
    for preset in ("tiny", "base", "large"):
        adapter = build_adapter(
            name, layers=("a",), channels=256, grid=GRID, stats={"a": (np.zeros(256), np.ones(256))}, preset=preset
        )
        sizes.append(count_parameters(adapter))
    assert sizes == sorted(set(sizes))


def test_an_adapter_of_one_size_says_so() -> None:
    with pytest.raises(ConfigError, match="has no preset") as caught:
        adapter_params("linear_probe", {"preset": "tiny"})
    assert "d2st" in str(caught.value)
