"""`d2st export` and back: what was exported scores files as the checkpoint does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from d2st import Detector
from d2st.adapter.train.checkpoint import build_detector, save_checkpoint
from d2st.cache.errors import RunError, UsageError
from d2st.cli.app import app
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.run import declared_tokens
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import build_detector as face_detector


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """best.safetensors of an untrained detector, and photo.png."""
    made = tmp_path_factory.mktemp("exports")
    encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ["block_0"], dtype="int8")
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    encoder.calibration = encoder.calibrate(noise)
    config = declared_tokens(encoder, CropSettings(4, "even", 32, 1.3), face_detector("none"))
    meta = {
        "adapter": "linear_probe",
        "adapter_params": {},
        "layers": ["block_0"],
        "channels": 64,
        "grid": [4, 4],
        "clip_frames": 4,
        "config": config,
        "fingerprint": "f",
        "notes": {"pretrained": "random:0"},
    }
    torch.manual_seed(0)
    detector = build_detector(meta, {"block_0": (np.zeros(64), np.ones(64))})
    detector.head.linear.weight.data.normal_()
    save_checkpoint(
        made / "best.safetensors",
        detector,
        meta=meta,
        stats={"block_0": (np.zeros(64), np.ones(64))},
        calibration=encoder.calibration,
    )
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 40, 3), dtype=np.uint8)).save(made / "photo.png")
    return made


@pytest.mark.parametrize(("form", "whole"), [("pt2", True), ("onnx", False)])
def test_an_exported_file_scores_as_the_checkpoint(folder, tmp_path, form, whole):
    out = tmp_path / f"detector.{form}"
    check = ("--with-backbone", "--check", folder / "photo.png") if whole else ()  # without either it is compared on noise
    said = json.loads(invoke("export", form, folder / "best.safetensors", "--out", out, *check, "--json").stdout)
    assert said["eats"] == ("crops" if whole else "maps")
    assert said["parity"]["max_abs_logit"] < 1e-2
    assert said["parity"]["of"].startswith("of 1 files" if whole else "of noise")
    card = (tmp_path / f"detector.{form}.md").read_text()
    assert f'Detector.load("{out.name}")' in card
    assert f"{said['parity']['max_abs_logit']:.2g} on" in card
    wanted = Detector.load(folder / "best.safetensors", device="cpu").predict(folder / "photo.png")
    found = Detector.load(out, device="cpu").predict(folder / "photo.png")
    assert found.logit == pytest.approx(wanted.logit, abs=1e-2)
    assert found.frame_scores == pytest.approx(wanted.frame_scores, abs=1e-2)


def test_a_hub_folder_loads_back_and_only_as_a_whole(folder, tmp_path):
    invoke("export", "hub", folder / "best.safetensors", "--out", tmp_path / "hub")
    wanted = Detector.load(folder / "best.safetensors", device="cpu").predict(folder / "photo.png")
    assert Detector.load(tmp_path / "hub", device="cpu").predict(folder / "photo.png").logit == wanted.logit
    config = tmp_path / "hub" / "config.json"
    config.write_text(config.read_text().replace('"checkpoint": "', '"checkpoint": "0'))
    with pytest.raises(RunError, match=r"is not the file that config\.json describes"):
        Detector.load(tmp_path / "hub")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("torchscript",), "TorchScript is deprecated"),
        (("hub", "--with-backbone"), "nothing to convert"),
        (("onnx", "--out", "model.bin"), "can't be loaded by that name"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(folder, words, says):
    form, *options = words
    failed = invoke("export", form, folder / "best.safetensors", *options, code=1).exception
    assert isinstance(failed, UsageError)  # exit code 2 of the command itself
    assert says in str(failed)
