"""A graph becomes a file: pt2 by `torch.export`, ONNX by `torch.onnx` from the same program, checked before it is there.

The decision that shaped it: everything happens in memory, and the file is written last, whole, after its outputs were compared with the
checkpoint's (`parity`). So a file that exists is one that was right on this machine, and it records by how much it differed.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from d2st.adapter.export.about import KEY
from d2st.adapter.export.graph import OUTPUTS
from d2st.adapter.export.program import OnnxProgram, Program, Pt2Program, arguments, quiet, require
from d2st.adapter.export.seal import seal
from d2st.adapter.nets.plain import export_form
from d2st.cache.errors import ConfigError
from d2st.cache.files import write_atomic

__all__ = ["BATCH", "FRAMES", "OPSET", "trace", "write_onnx", "write_pt2"]

FRAMES = BATCH = (1, 1024)  # least and greatest T and B
OPSET = 20  # its GELU is exact; onnxruntime runs it since 1.17
EXAMPLE_BATCH, EXAMPLE_FRAMES = 2, 13  # sizes from which no other size follows, so that the tracer takes nothing for fixed
ONNX_LIMIT = 2**31 - 1  # bytes of a protobuf message
Check = Callable[[Program], Mapping[str, Any]]


def trace(graph: nn.Module, *, inputs: Mapping[str, Sequence[int]], dtype: torch.dtype) -> ExportedProgram:
    """One program for any batch and number of frames within `BATCH` and `FRAMES`.

    Args:
        graph: `CropGraph` or `MapGraph`.
        inputs: name -> shape of one frame; "crops", or "maps.<layer>" and "cls.<layer>".
        dtype: of all inputs.
    """
    free = {0: Dim("batch", min=BATCH[0], max=BATCH[1]), 1: Dim("frames", min=FRAMES[0], max=FRAMES[1])}
    example = {name: torch.zeros(EXAMPLE_BATCH, EXAMPLE_FRAMES, *shape, dtype=dtype) for name, shape in inputs.items()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that no other runtime has
    try:
        with torch.no_grad(), export_form(), quiet():
            return torch.export.export(
                graph.eval(),
                (),
                arguments(example),
                dynamic_shapes=arguments(dict.fromkeys(inputs, free)),
                prefer_deferred_runtime_asserts_over_guards=True,  # or what holds for any size would have to be proved beforehand
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def write_pt2(program: ExportedProgram, out: Path, *, about: Mapping[str, Any], check: Check) -> dict[str, Any]:
    """Write `program` if it passes `check`, which raises or gives the parity; returns `about` with it.

    The file holds no example inputs: they would be a pickle, which `Pt2Program` refuses.
    """
    program.example_inputs = None
    return _write(out, about=about, check=check, opened=Pt2Program, pack=lambda text: _pack_pt2(program, text))


def write_onnx(
    program: ExportedProgram, out: Path, *, names: Sequence[str], about: Mapping[str, Any], check: Check
) -> dict[str, Any]:
    """As `write_pt2`, for ONNX; `names` are those of the inputs as `trace` had them.

    Raises:
        ConfigError: a package is missing, or the model is larger than one file can be.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name)
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    try:
        proto = made.model_proto
        size = proto.ByteSize()
    except ValueError:  # protobuf's own word for too large
        size = ONNX_LIMIT + 1
    if size > ONNX_LIMIT:
        raise ConfigError("the model is larger than the 2 GiB that an ONNX file can hold", fix="Export it as pt2")

    def pack(text: str) -> bytes:
        entry = next((entry for entry in proto.metadata_props if entry.key == KEY), None) or proto.metadata_props.add(key=KEY)
        entry.value = text
        return seal(proto)

    return _write(out, about=about, check=check, opened=OnnxProgram, pack=pack)


def _write(
    out: Path,
    *,
    about: Mapping[str, Any],
    check: Check,
    opened: Callable[[bytes], Program],
    pack: Callable[[str], bytes],
) -> dict[str, Any]:
    parity = check(opened(pack(json.dumps(about))))
    said = {**about, "parity": dict(parity)}
    write_atomic(out, pack(json.dumps(said, sort_keys=True)))
    return said


def _pack_pt2(program: ExportedProgram, text: str) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={f"{KEY}.json": text})
    return buffer.getvalue()
