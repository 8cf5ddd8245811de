"""Pieces that the tests of this folder share."""

import numpy as np
import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="session")
def faces():
    """21 noise pictures (21, 32, 32, 3) uint8: one more than a whole number of small micro-batches."""
    return np.random.default_rng(5).integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def visual_state():
    """The state dict of d2st-test from seed 11, in open_clip's naming without the prefix."""
    from d2st.pipeline.clip.backbone import load_backbone

    return {
        name: tensor.clone()
        for name, tensor in load_backbone("d2st-test", "random:11", device="cpu").model.state_dict().items()
    }
