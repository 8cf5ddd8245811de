"""Exported files, opened: numpy arrays by name in, numpy arrays by name out, whatever runs them.

The decision that shaped it: PyTorch's reader of pt2 files opens the pickles in them. What `d2st export` writes has none, so a file with
anything else than plain weights, one graph and our JSON is refused before PyTorch sees it. (Its graph still passes through a parser that
was not made for hostile input; a file from a stranger is safer as ONNX.) Neither reader minds weights that were damaged, so pt2 is held
against the checksums of its zip here, and ONNX against its `seal`.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from d2st.adapter.export.about import KEY, check_about
from d2st.adapter.export.graph import OUTPUTS
from d2st.adapter.export.seal import check_seal
from d2st.cache.errors import ConfigError, RunError

__all__ = ["SUFFIXES", "OnnxProgram", "Program", "Pt2Program", "arguments", "open_program", "quiet", "require"]

SUFFIXES = (".pt2", ".onnx")
_SAMPLE = "data/sample_inputs/model.pt"  # must be empty: anything else is a pickle
_PLAIN = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    rf"|{_SAMPLE}|models/model\.json|extra/{KEY}\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
Arrays = Mapping[str, np.ndarray]


class Program(Protocol):
    """An exported graph that runs.

    Attributes:
        about: as `about.describe` made it.
        runtime: what runs it, with its version.
    """

    about: dict[str, Any]
    runtime: str

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """logit (B,), frame_logits (B,T), probability (B,), float32, of `crops` (B,T,S,S,3) uint8, or of `maps.<layer>` (B,T,H,W,C) and
        `cls.<layer>` (B,T,C) float32."""
        ...


class Pt2Program:
    """Run by PyTorch.

    Args:
        data: the file's bytes.
        where: its name, for messages.
        device: of the computation.
    """

    def __init__(self, data: bytes, *, where: str = "the file", device: str = "cpu") -> None:
        self.runtime = f"torch {torch.__version__}"
        self.about = check_about(_read_extra(data, where), where=where)
        try:
            with quiet():
                program = torch.export.load(io.BytesIO(data))
        except Exception as error:  # the reader raises what it likes on a damaged file; all of it means the same
            raise RunError(f"{where} can't be read as a pt2 program: {_first_line(error)}", fix="Export it again") from error
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self._module, self._device = program.module(), device

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        given = {name: torch.from_numpy(np.ascontiguousarray(value)).to(self._device) for name, value in inputs.items()}
        with torch.no_grad():
            outputs = self._module(**arguments(given))
        return {name: value.cpu().numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}


class OnnxProgram:
    """Run by onnxruntime, on CUDA where that is asked for and its build has it; arguments as `Pt2Program`."""

    def __init__(self, data: bytes, *, where: str = "the file", device: str = "cpu") -> None:
        require("onnxruntime")
        import onnxruntime

        check_seal(data, where=where)
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no common class
            raise RunError(f"{where} can't be read as an ONNX model: {_first_line(error)}", fix="Export it again") from error
        self.about = check_about(self._session.get_modelmeta().custom_metadata_map.get(KEY, ""), where=where)
        self._inputs = [entry.name for entry in self._session.get_inputs()]  # what no output depends on is no input

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        found = self._session.run(list(OUTPUTS), {name: np.ascontiguousarray(inputs[name]) for name in self._inputs})
        return dict(zip(OUTPUTS, found, strict=True))


def open_program(path: Path, *, device: str = "cpu") -> Program:
    """Open an exported file by its suffix.

    Raises:
        RunError: it is damaged, holds a pickle, or was not made by `d2st export`.
        ConfigError: onnxruntime is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror or error}", fix="Check the path") from error
    return (Pt2Program if path.suffix == ".pt2" else OnnxProgram)(data, where=str(path), device=device)


def require(package: str) -> None:
    """Raise ConfigError unless `package` can be imported."""
    if find_spec(package) is None:
        raise ConfigError(f"this needs the package {package}, which is not installed", fix="pip install 'd2st[export]'")


def arguments(named: Mapping[str, Any]) -> dict[str, Any]:
    """{"maps.block_1": x, "cls.block_1": y} -> {"maps": {"block_1": x}, "cls": {"block_1": y}}; "crops" stays."""
    if "crops" in named:
        return {"crops": named["crops"]}
    made: dict[str, dict[str, Any]] = {"maps": {}, "cls": {}}
    for name, value in named.items():
        group, _, layer = name.partition(".")
        made[group][layer] = value
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of PyTorch's and ONNX's exporters, which are for those who write them."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _read_extra(data: bytes, where: str) -> bytes:
    """Our JSON from the zip, if nothing in it is a pickle or a library."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            root = names[0].partition("/")[0]
            sizes = {entry.filename.removeprefix(f"{root}/"): entry.file_size for entry in archive.infolist()}
            foreign = [name for name in sizes if not _PLAIN.fullmatch(name)]
            foreign += [name for name in set(names) if names.count(name) > 1]  # who reads which of them?
            if sizes.get(_SAMPLE):
                foreign.append(_SAMPLE)
            for name in (name for name in sizes if name not in foreign and name.endswith("_config.json")):
                entries = json.loads(archive.read(f"{root}/{name}"))["config"]
                foreign += [key for key, entry in entries.items() if entry["use_pickle"]]
            own = f"extra/{KEY}.json"
            text = archive.read(f"{root}/{own}") if own in sizes else b""
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise RunError(f"{where} can't be read as a pt2 program: {_first_line(error)}", fix="Export it again") from error
    if damaged:
        raise RunError(f"{where} was changed or damaged after it was written, in {damaged}", fix="Export it again")
    if foreign:
        raise RunError(
            f"{where} holds more than plain weights and a graph ({foreign[0]}), and reading that can run any code",
            fix="Use what `d2st export pt2` wrote",
        )
    return text


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
