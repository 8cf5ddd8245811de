"""The exportable form of every registered adapter says what its own form says. A new adapter is picked up here by itself."""

import pytest
import torch

from d2st.adapter.nets import Detector, Head, adapter_names, build_adapter
from d2st.adapter.nets.plain import export_form, exporting, windows

LAYERS, CHANNELS, GRID = ("block_0", "block_2"), 24, (6, 5)


def make(name: str) -> Detector:
    torch.manual_seed(0)
    stats = {key: (torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5) for layer in LAYERS for key in (layer, f"{layer}/cls")}
    adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats)
    for read in getattr(adapter, "whitened", {}).values():
        read.set_whitening(torch.corrcoef(torch.randn(CHANNELS, 200).double()).float())
    detector = Detector(adapter, Head(adapter.embed_dim)).eval().double()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return detector


@pytest.mark.parametrize("name", adapter_names())
def test_both_forms_agree_at_every_length(name):
    detector = make(name)
    for frames in (1, 2, 3, 4, 5, 7, 8, 9, 13):
        tokens = {layer: torch.randn(2, frames, *GRID, CHANNELS, dtype=torch.double) for layer in LAYERS}
        cls = {layer: torch.randn(2, frames, CHANNELS, dtype=torch.double) for layer in LAYERS}
        mask = torch.ones(2, frames, dtype=torch.bool)
        with torch.no_grad():
            own = detector(tokens, cls, mask)
            with export_form():
                exported = detector(tokens, cls, mask)
        for one, other in zip(own, exported, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda text, t=frames: f"T={t}: {text}")


def test_the_switch_goes_back_after_an_error():
    seen = []

    def fail():
        seen.append(exporting())
        raise RuntimeError("halt")

    with pytest.raises(RuntimeError, match="halt"), export_form():
        fail()
    assert seen == [True]
    assert not exporting()


@pytest.mark.parametrize(
    ("frames", "shown"),
    [(1, [0] * 8), (3, [0, 0, 1, 2] * 2), (4, [0, 1, 2, 3] * 2), (6, [0, 1, 2, 3] * 2), (9, list(range(9)))],
)
def test_windows_repeat_what_a_kernel_of_four_frames_sees(frames, shown):
    assert windows(torch.arange(frames)[None], 4)[0].tolist() == shown
