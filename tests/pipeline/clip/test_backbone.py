import dataclasses

import pytest
import torch

from d2st.cache.errors import ConfigError
from d2st.pipeline.clip.backbone import default_precision, load_backbone
from d2st.pipeline.clip.weights import weights_digest


def test_the_demo_model_is_described():
    backbone = load_backbone("d2st-demo", "random:0", device="cpu")
    described = {field.name: getattr(backbone, field.name) for field in dataclasses.fields(backbone)[1:]}
    digest = described.pop("weights_digest")
    assert len(bytes.fromhex(digest)) == 16
    assert described == {
        "name": "d2st-demo",
        "pretrained": "random:0",
        "image_size": 112,
        "grid": (14, 14),
        "channels": 192,
        "depth": 6,
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "device": "cpu",
        "precision": "fp32",
    }


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = load_backbone("d2st-test", "random:7", device="cpu")
    before = torch.get_rng_state()
    torch.manual_seed(2)
    second = load_backbone("d2st-test", "random:007", device="cpu")
    other = load_backbone("d2st-test", "random:8", device="cpu")
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "loading moved the global random generator"
    assert first.weights_digest == second.weights_digest != other.weights_digest
    assert first.pretrained == second.pretrained == "random:7"


def test_the_digest_is_taken_before_any_cast(device):
    full = load_backbone("d2st-test", "random:7", device="cpu", precision="fp32")
    half = load_backbone("d2st-test", "random:7", device=device, precision="bf16")
    assert half.weights_digest == full.weights_digest
    assert half.weights_digest != weights_digest(half.model.state_dict())


def test_bf16_keeps_norms_and_patch_embedding_in_float32():
    model = load_backbone("d2st-test", "random:7", device="cpu", precision="bf16").model
    low = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.bfloat16}
    blocks = {name for name in model.state_dict() if name.startswith("transformer.") and ".ln_" not in name}
    assert low == blocks


def test_precision_is_checked():
    with pytest.raises(ConfigError, match="fp32, bf16"):
        load_backbone("d2st-test", "random:7", device="cpu", precision="fp16")
    assert default_precision("cpu") == "fp32"
    assert default_precision("cuda:1") == "bf16"
