import pickle
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from d2st.cache.errors import WeightsError
from d2st.pipeline.clip.backbone import load_backbone
from d2st.pipeline.clip.models import model_config
from d2st.pipeline.clip.weights import weights_digest

NAME = "transformer.resblocks.1.mlp.c_fc.weight"


def prefixed(state):
    return {f"visual.{name}": tensor for name, tensor in state.items()}


def load(path):
    return load_backbone("d2st-test", str(path), device="cpu")


def save(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("file_name", ["w.safetensors", "w.pt", "w.bin", "w.pth"])
def test_a_file_gives_back_the_weights_it_was_made_from(visual_state, tmp_path, file_name):
    rng = torch.get_rng_state()
    backbone = load(save(prefixed(visual_state), tmp_path / file_name))
    assert backbone.weights_digest == weights_digest(visual_state)
    assert backbone.pretrained == file_name
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"module.{n}": t for n, t in s.items()}])
def test_training_checkpoints_are_understood(visual_state, tmp_path, wrap):
    path = save(wrap(prefixed(visual_state)), tmp_path / "epoch_3.pt")
    assert load(path).weights_digest == weights_digest(visual_state)


@pytest.mark.parametrize("file_name", ["full.safetensors", "full.pt"])
def test_the_text_tower_is_ignored(tmp_path, file_name):
    config = model_config("d2st-test")[1]
    clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    path = save({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, tmp_path / file_name)
    assert load(path).weights_digest == weights_digest(clip.visual.state_dict())


def test_half_precision_files_become_float32(visual_state, tmp_path):
    half = {name: tensor.half() for name, tensor in visual_state.items()}
    backbone = load(save(prefixed(half), tmp_path / "w.safetensors"))
    assert backbone.weights_digest == weights_digest({name: tensor.float() for name, tensor in half.items()})
    assert all(parameter.dtype == torch.float32 for parameter in backbone.model.parameters())


def test_the_digest_sees_every_change_and_no_order(visual_state):
    digest = weights_digest(visual_state)
    assert weights_digest(dict(reversed(visual_state.items()))) == digest
    assert weights_digest({**visual_state, NAME: visual_state[NAME].t().contiguous().t()}) == digest
    changed = {name: tensor.clone() for name, tensor in visual_state.items()}
    changed[NAME][3, 4] = torch.nextafter(changed[NAME][3, 4], torch.tensor(9.0))
    variants = [
        changed,
        {**visual_state, NAME: visual_state[NAME].reshape(-1)},
        {**visual_state, NAME: visual_state[NAME].view(torch.int32)},
        {("other" if name == NAME else name): tensor for name, tensor in visual_state.items()},
    ]
    assert len({digest, *map(weights_digest, variants)}) == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop(NAME), rf"lacks {NAME}\."),
        (lambda s: s.update({NAME: s[NAME][:, :5].clone()}), rf"{NAME} \(256, 5\) instead of \(256, 64\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unknown tensors: extra"),
        (lambda s: s[NAME][7, 7:8].fill_(float("nan")), rf"not finite numbers in {NAME}"),
        (lambda s: s[NAME][7, 7:8].fill_(float("inf")), rf"not finite numbers in {NAME}"),
        (lambda s: s.update({NAME: s[NAME].long()}), rf"not finite numbers in {NAME}"),
        (lambda s: [s.pop(name) for name in list(s)[1:]], r"lacks .*, .*, .* and \d+ more"),
        (lambda s: s.clear(), r"no 'visual\.\*' tensors"),
    ],
    ids=["missing", "shape", "surplus", "nan", "inf", "integers", "most-missing", "none"],
)
@pytest.mark.parametrize("file_name", ["w.safetensors", "w.pt"])
def test_damaged_weights_are_refused_by_name(visual_state, tmp_path, damage, message, file_name):
    damage(visual_state)
    path = save(prefixed(visual_state), tmp_path / file_name)
    with pytest.raises(WeightsError, match=message):
        load(path)


def test_weights_of_another_model_are_refused(visual_state, tmp_path):
    path = save(prefixed(visual_state), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="belong together"):
        load_backbone("d2st-demo", str(path), device="cpu")


@pytest.mark.parametrize("file_name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_cut_file_is_refused(visual_state, tmp_path, file_name, keep):
    path = save(prefixed(visual_state), tmp_path / file_name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="can't be read"):
        load(path)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_no_code_of_a_file_is_run(visual_state, tmp_path):
    torch.save({**prefixed(visual_state), "payload": Payload()}, tmp_path / "w.pt")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("w.pt", "raw.bin"):
        with pytest.raises(WeightsError, match=r"plain weights.*runs no code") as caught:
            load(tmp_path / name)
        assert "weights_only" not in str(caught.value)  # torch says how to run it


def test_torchscript_and_other_objects_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as archive:
        archive.writestr("ViT-B-16/constants.pkl", b"")
    with pytest.raises(WeightsError, match="TorchScript"):
        load(tmp_path / "ViT-B-16.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        load(save([1, 2], tmp_path / "list.pt"))
