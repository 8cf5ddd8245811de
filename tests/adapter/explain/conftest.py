"""Small detectors whose every path is felt, and a linear one whose explanation can be written down."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from d2st.adapter.explain import evidence, relevance
from d2st.adapter.nets import Detector, Head, build_adapter

LAYERS, CHANNELS, GRID = ("block_1", "block_3"), 16, (5, 4)
Features = dict[str, Tensor]


class Linear(nn.Module):
    """Frame embeddings are sums over the tokens of all layers and CLS, the clip's is their mean: logits are linear in the features."""

    needs_maps, embed_dim, layers = True, 1, LAYERS

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        names = [*LAYERS, *(f"{layer}/cls" for layer in LAYERS)]
        self.weights = {name: torch.randn(CHANNELS, generator=generator) for name in names}
        self.means = {name: torch.randn(CHANNELS, generator=generator) for name in names}

    def forward(self, tokens: Features, cls: Features, mask: Tensor) -> tuple[Tensor, Tensor]:
        maps = sum((tokens[layer] @ self.weights[layer]).sum((2, 3)) for layer in LAYERS)
        frames = maps + sum(cls[layer] @ self.weights[f"{layer}/cls"] for layer in LAYERS)  # (B, T)
        return frames.mean(1, keepdim=True), frames.unsqueeze(-1)


@pytest.fixture(autouse=True)
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen gradients say nothing more to a test than two."""
    monkeypatch.setattr(evidence, "relevance", partial(relevance, copies=2))


@pytest.fixture
def linear() -> Detector:
    head = Head(1)
    nn.init.ones_(head.linear.weight)
    return Detector(Linear(), head).eval()


@pytest.fixture
def make() -> Callable[[str], Detector]:
    """make(adapter's name): with parameters away from their neutral start."""

    def make(name: str) -> Detector:
        torch.manual_seed(0)
        stats = {
            name: (torch.randn(CHANNELS), torch.rand(CHANNELS) * 3 + 0.5)
            for layer in LAYERS
            for name in (layer, f"{layer}/cls")
        }
        size = {} if name == "linear_probe" else {"width": 16}
        adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats, **size)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        detector = Detector(adapter, Head(adapter.embed_dim)).eval()
        nn.init.normal_(detector.head.linear.weight)
        return detector

    return make


@pytest.fixture
def clip() -> Callable[[int], tuple[Features, Features]]:
    """clip(T): tokens and CLS of a clip of T frames."""

    def clip(frames: int) -> tuple[Features, Features]:
        generator = torch.Generator().manual_seed(frames)
        draw: Callable[..., Tensor] = lambda *shape: torch.randn(*shape, generator=generator) * 2  # noqa: E731
        maps = {layer: draw(frames, *GRID, CHANNELS) for layer in LAYERS}
        return maps, {layer: draw(frames, CHANNELS) for layer in LAYERS}

    return clip
