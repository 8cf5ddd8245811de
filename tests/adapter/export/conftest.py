"""A small checkpoint on token maps, and what an export of it needs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d2st.adapter.export import about, write
from d2st.adapter.export.graph import MapGraph
from d2st.adapter.export.parity import Clip
from d2st.adapter.nets import adapter_params
from d2st.adapter.train.checkpoint import build_detector

CHANNELS, GRID = 16, [4, 4]


def describe(adapter, layers, clip_frames, **params):
    crops = {
        "detector": "none",
        "detector_digest": "0",
        "frames": 4,
        "margin_ratio": 1.3,
        "sampling": "even",
        "size": 32,
        "version": 1,
    }
    config = {
        "backbone": "d2st-test",
        "image_size": 32,
        "dtype": "float16",
        "precision": "fp32",
        "weights_digest": "1",
        "crops": crops,
    }
    scores = {
        "temperature": 2.0,
        "reason": None,
        "real": [-1.5, -0.25, 0.5],
        "fake": [0.25, 1.0, 2.0],
        "n_real": 3,
        "n_fake": 3,
    }
    return {
        "adapter": adapter,
        "adapter_params": adapter_params(adapter, params).model_dump(),
        "layers": layers,
        "channels": CHANNELS,
        "grid": GRID,
        "clip_frames": clip_frames,
        "config": config,
        "fingerprint": "f",
        "notes": {"pretrained": "random:0"},
        "operating": {"video": scores, "image": {**scores, "temperature": 0.5}},
        "calibration": {},
    }


@pytest.fixture(scope="session")
def prepared():
    """Makes a detector with everything that an export of its maps needs."""

    def make(adapter, *, layers=("block_0", "block_2"), clip_frames=4, **params):
        torch.manual_seed(0)
        meta = describe(adapter, list(layers), clip_frames, **params)
        stats = {
            key: (torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5) for layer in layers for key in (layer, f"{layer}/cls")
        }
        detector = build_detector(meta, stats).eval()
        for parameter in detector.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
        clips = [
            Clip(
                np.zeros((frames, 32, 32, 3), np.uint8),
                {layer: torch.randn(frames, *GRID, CHANNELS).half() for layer in layers},
                {layer: torch.randn(frames, CHANNELS).half() for layer in layers},
            )
            for frames in (1, 6, 9)
        ]
        graph = MapGraph(detector, layers=layers, clip_frames=clip_frames, temperatures=about.temperatures(meta))
        maps = {f"maps.{layer}": (*GRID, CHANNELS) for layer in layers if detector.adapter.needs_maps}
        inputs = maps | {f"cls.{layer}": (CHANNELS,) for layer in layers}
        said = about.describe(meta, checkpoint="c" * 32, inputs=inputs, frames=write.FRAMES, batch=write.BATCH, opset=None)
        return SimpleNamespace(
            meta=meta,
            detector=detector,
            clips=clips,
            graph=graph,
            inputs=inputs,
            about=said,
        )

    return make
