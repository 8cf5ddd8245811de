import dataclasses
from concurrent.futures import ThreadPoolExecutor

import open_clip
import pytest
import torch

from d2st.cache.errors import ConfigError, WeightsError
from d2st.pipeline.clip.backbone import default_precision, load_backbone
from d2st.pipeline.clip.models import register_models
from d2st.pipeline.clip.weights import POSITIONS, weights_digest


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


def test_threads_that_load_at_once_get_the_weights_of_their_seeds():
    seeds = list(range(8)) * 3
    torch.manual_seed(1)
    before = torch.get_rng_state()
    alone = [load_backbone("d2st-test", f"random:{seed}", device="cpu").weights_digest for seed in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda seed: load_backbone("d2st-test", f"random:{seed}", device="cpu").weights_digest, seeds))
    assert found == [alone[seed] for seed in seeds]
    assert torch.equal(torch.get_rng_state(), before), "loading moved the global random generator"


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


def test_another_image_size_is_that_of_open_clip(tmp_path):
    """As open_clip's own factory makes it by force_image_size, from a file of the usual size."""
    register_models()
    source = open_clip.create_model("d2st-test")
    file = tmp_path / "clip.pt"
    torch.save(source.state_dict(), file)
    reference = open_clip.create_model("d2st-test", pretrained=str(file), force_image_size=48).visual
    usual, found = (load_backbone("d2st-test", str(file), device="cpu", image_size=size) for size in (None, 48))
    assert (found.image_size, found.grid, usual.grid) == (48, (6, 6), (4, 4))
    for name, tensor in reference.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    assert found.weights_digest == usual.weights_digest  # the size is a field of its own


def test_its_own_image_size_changes_nothing():
    named, usual = (load_backbone("d2st-test", "random:3", device="cpu", image_size=size) for size in (32, None))
    assert all(
        torch.equal(a, b) for a, b in zip(named.model.state_dict().values(), usual.model.state_dict().values(), strict=True)
    )


def test_random_weights_are_the_same_at_every_image_size():
    small, large = (load_backbone("d2st-test", "random:3", device="cpu", image_size=size) for size in (None, 64))
    here, there = small.model.state_dict(), large.model.state_dict()
    differing = [name for name, tensor in here.items() if tensor.shape != there[name].shape or not tensor.equal(there[name])]
    assert differing == [POSITIONS]
    assert torch.equal(there[POSITIONS][0], here[POSITIONS][0])  # that of CLS stays


def test_weights_of_the_wanted_size_are_taken_as_they_are(tmp_path):
    large = load_backbone("d2st-test", "random:3", device="cpu", image_size=48).model.state_dict()
    torch.save({f"visual.{name}": tensor for name, tensor in large.items()}, tmp_path / "fine.pt")
    found = load_backbone("d2st-test", str(tmp_path / "fine.pt"), device="cpu", image_size=48).model.state_dict()
    assert torch.equal(found[POSITIONS], large[POSITIONS])
    with pytest.raises(WeightsError, match="positional_embedding"):
        load_backbone("d2st-test", str(tmp_path / "fine.pt"), device="cpu")
    with pytest.raises(WeightsError, match="positional_embedding"):
        load_backbone("d2st-test", str(tmp_path / "fine.pt"), device="cpu", image_size=64)


@pytest.mark.parametrize(("size", "named"), [(50, "48 or 56"), (4, "8"), (-8, "8")])
def test_pictures_that_do_not_divide_into_patches_are_refused(size, named):
    with pytest.raises(ConfigError, match=named):
        load_backbone("d2st-test", "random:0", device="cpu", image_size=size)
