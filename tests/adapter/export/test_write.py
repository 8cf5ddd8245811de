"""Exported files say what the checkpoint says, at any batch and length, and are not there when they do not."""

import copy
import io
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch

from d2st.adapter.export import write
from d2st.adapter.export.graph import OUTPUTS
from d2st.adapter.export.parity import compare
from d2st.adapter.export.program import arguments, open_program
from d2st.adapter.nets.plain import export_form
from d2st.cache.errors import ConfigError, RunError


@pytest.fixture(scope="module")
def probe(prepared):
    """An attentive probe, traced."""
    made = prepared("attentive_probe", width=8, heads=2)
    made.program = write.trace(made.graph, inputs=made.inputs, dtype=torch.float32)
    return made


@pytest.fixture(scope="module")
def files(probe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")

    def check(opened):
        return compare(opened, probe.detector, probe.clips, of="made up")

    write.write_pt2(probe.program, folder / "adapter.pt2", about=probe.about, check=check)
    said = {**probe.about, "opset": write.OPSET}
    write.write_onnx(probe.program, folder / "adapter.onnx", names=list(probe.inputs), about=said, check=check)
    return folder


@pytest.mark.parametrize("name", ["adapter.pt2", "adapter.onnx"])
def test_any_batch_and_length_come_out_as_from_the_checkpoint(probe, files, name):
    program = open_program(files / name)
    assert program.about["meta"] == {k: v for k, v in probe.meta.items() if k != "calibration"}
    assert program.about["parity"]["max_abs_logit"] < 1e-5
    assert program.about["versions"]["torch"]
    for batch, frames in ((1, 1), (3, 1), (1, 7), (2, 20)):
        shapes = {name: (batch, frames, *shape) for name, shape in probe.inputs.items()}
        inputs = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        found = program.run(inputs)
        groups = (
            {k.partition(".")[2]: torch.tensor(v) for k, v in inputs.items() if k.startswith(of)} for of in ("maps", "cls")
        )
        with torch.no_grad():
            wanted = probe.detector(*groups, torch.ones(batch, frames, dtype=torch.bool))
        np.testing.assert_allclose(found["logit"], wanted.clip_logit, atol=1e-5)
        np.testing.assert_allclose(found["frame_logits"], wanted.frame_logits, atol=1e-5)
        temperature = 0.5 if frames == 1 else 2.0  # of stills, of clips
        np.testing.assert_allclose(found["probability"], torch.sigmoid(wanted.clip_logit / temperature), atol=1e-6)


def test_the_onnx_file_is_valid_and_says_which_opset_and_checkpoint(files):
    model = onnx.load(files / "adapter.onnx")
    onnx.checker.check_model(model, full_check=True)
    said = json.loads({entry.key: entry.value for entry in model.metadata_props}["d2st"])
    assert said["opset"] == write.OPSET == next(entry.version for entry in model.opset_import if entry.domain == "")
    assert said["checkpoint"] == "c" * 32
    assert {entry.name for entry in model.graph.output} == {"logit", "frame_logits", "probability"}


def test_a_file_that_says_something_else_is_not_written(probe, tmp_path):
    other = copy.deepcopy(probe.detector)
    other.head.linear.bias.data.add_(0.01)

    def check(opened):
        return compare(opened, other, probe.clips, of="made up")

    with pytest.raises(RunError, match=r"differs from the checkpoint: by 0\.01 in a logit"):
        write.write_pt2(probe.program, tmp_path / "adapter.pt2", about=probe.about, check=check)
    assert list(tmp_path.iterdir()) == []


class Ran:
    """A module behind the protocol of exported programs."""

    runtime = "torch"

    def __init__(self, made, module):
        self.about, self.module = made.about, module

    def run(self, inputs):
        given = arguments({name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.detach().numpy() for name, value in zip(OUTPUTS, self.module(**given), strict=True)}


def test_deformable_bodies_trace_at_symbolic_length(prepared):
    made = prepared("d2st", layers=["block_0"], width=8)
    program = write.trace(made.graph, inputs=made.inputs, dtype=torch.float32)
    assert compare(Ran(made, program.module()), made.detector, made.clips, of="made up")["max_abs_logit"] < 1e-4


@pytest.mark.parametrize("adapter", ["linear_probe", "st_adapter"])
def test_a_detector_of_single_frames_gives_the_mean_of_their_logits(prepared, adapter):
    made = prepared(adapter, clip_frames=1)

    def module(**given):
        with torch.no_grad(), export_form():
            return made.graph(**given)

    found = compare(Ran(made, module), made.detector, made.clips, of="made up")
    assert found["max_abs_logit"] < 1e-4
    assert found["frames"] == [1, 3, 5, 6, 9]


def test_what_is_missing_is_named_before_any_work(monkeypatch, probe, tmp_path):
    monkeypatch.setattr("d2st.adapter.export.program.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ConfigError, match="package onnxscript") as caught:
        write.write_onnx(probe.program, tmp_path / "a.onnx", names=list(probe.inputs), about=probe.about, check=dict)
    assert "d2st[export]" in caught.value.fix


def _again(path, change):
    """The zip with `change(members)` applied to its names and contents."""
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _weight_as_pickle(members):
    name = next(name for name in members if name.endswith("weights_config.json"))
    members[name] = members[name].replace(b'"use_pickle": false', b'"use_pickle": true', 1)


@pytest.mark.parametrize(
    "change",
    [
        _weight_as_pickle,
        lambda members: members.update({"adapter/data/sample_inputs/model.pt": _pickled([1])}),
        lambda members: members.update({"adapter/data/weights/model.pt": _pickled({})}),
        lambda members: members.update({"adapter/data/constants/opaque_obj_0": b"\x80\x04N."}),
        lambda members: members.update({"adapter/data/aotinductor/model/library.so": b"\x7fELF"}),
        lambda members: members.update({"other/data/weights/model_weights_config.json": b"{}"}),
    ],
)
def test_a_pt2_that_could_run_code_is_refused_unopened(files, tmp_path, monkeypatch, change):
    monkeypatch.setattr(torch.export, "load", lambda *args, **kwargs: pytest.fail("it was opened"))
    with zipfile.ZipFile(files / "adapter.pt2") as archive:
        root = archive.namelist()[0].partition("/")[0]

    def renamed(members):
        change(members)
        for name in [name for name in members if name.startswith("adapter/")]:
            members[name.replace("adapter/", f"{root}/", 1)] = members.pop(name)

    (tmp_path / "evil.pt2").write_bytes(_again(files / "adapter.pt2", renamed))
    with pytest.raises(RunError, match="reading that can run any code"):
        open_program(tmp_path / "evil.pt2")


@pytest.mark.parametrize("name", ["adapter.pt2", "adapter.onnx"])
def test_damaged_and_foreign_files_are_refused(files, tmp_path, name):
    whole = (files / name).read_bytes()
    path = tmp_path / name
    for data in (b"", b"no model", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(RunError, match="can't be read as"):
            open_program(path)
    with pytest.raises(RunError, match="can't be read"):
        open_program(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", ["adapter.pt2", "adapter.onnx"])
def test_a_bit_that_flips_in_a_weight_is_refused(files, probe, tmp_path, name):
    whole = bytearray((files / name).read_bytes())
    weight = max(probe.detector.parameters(), key=torch.Tensor.numel).detach().numpy().tobytes()
    place = whole.find(weight)
    assert place > 0
    whole[place + len(weight) // 2] ^= 1
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(RunError, match="changed or damaged after it was written"):
        open_program(tmp_path / name)


def test_a_model_of_somebody_else_is_no_detector(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), tmp_path / "x.onnx"
    )
    with pytest.raises(RunError, match="not made by d2st"):
        open_program(tmp_path / "x.onnx")
