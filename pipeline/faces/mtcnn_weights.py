"""The weights of MTCNN, read from the data files of the installed `mtcnn` wheel (MIT licence).

The wheel is never imported, since that needs TensorFlow: `find_spec` only tells where it lies. Its three files are joblib
archives, and joblib is pickle, so the one decision here is that bytes are unpickled only after their SHA-256 matches the
value pinned below, and that the very bytes which were hashed are those that are loaded.
"""

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from d2st.cache.errors import WeightsError

__all__ = ["Layer", "MtcnnWeights", "load_mtcnn_weights"]

SHA256 = {
    "pnet.lz4": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet.lz4": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet.lz4": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}
FIX = "Install the wheel that carries them: pip install --force-reinstall 'mtcnn>=1.0,<2'"


@dataclass(frozen=True)
class Layer:
    """One convolution or dense layer. weight: (out, in, kh, kw) or (out, in); bias (out,); slope (out,) of the PReLU or None."""

    weight: torch.Tensor
    bias: torch.Tensor
    slope: torch.Tensor | None


@dataclass(frozen=True)
class MtcnnWeights:
    """The layers of the three networks in their order of use, and `digest`: SHA-256 hex over the three files."""

    pnet: tuple[Layer, ...]
    rnet: tuple[Layer, ...]
    onet: tuple[Layer, ...]
    digest: str


def load_mtcnn_weights(folder: Path | None = None, *, device: str = "cpu") -> MtcnnWeights:
    """Read, check and convert the weights.

    folder: where pnet.lz4, rnet.lz4 and onet.lz4 lie; None looks in the installed `mtcnn` wheel.
    Raises WeightsError if a file is missing, or is not bit for bit the one that this code was tested with.
    """
    folder = _wheel_folder() if folder is None else Path(folder)
    nets, whole = [], hashlib.sha256()
    for name, expected in SHA256.items():
        data = _read_checked(folder / name, expected)
        whole.update(data)
        nets.append(_layers(_unpack(data), device))
    return MtcnnWeights(*nets, digest=whole.hexdigest())


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError("the MTCNN weights are not installed (no package named mtcnn)", fix=FIX)
    return Path(spec.submodule_search_locations[0]) / "assets" / "weights"


def _read_checked(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"the MTCNN weights file {path} can't be read ({error.strerror})", fix=FIX) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise WeightsError(f"{path} is not the known MTCNN file: its SHA-256 is {found}, not {expected}", fix=FIX)
    return data


def _unpack(data: bytes) -> list[np.ndarray]:
    import joblib  # here, so that it is never at hand for bytes that were not checked

    return joblib.load(io.BytesIO(data))


def _layers(arrays: list[np.ndarray], device: str) -> tuple[Layer, ...]:
    """Group TensorFlow's flat list (kernel, bias, [slope], kernel, ...) into layers in torch's layout.

    Kernels (kh, kw, in, out) become (out, in, kh, kw) and dense weights (in, out) become (out, in). A third array of a
    layer is its PReLU slope: it has as many values as the bias before it and is not followed by a bias of its own.
    """
    layers, at = [], 0
    while at < len(arrays):
        kernel, bias = arrays[at], arrays[at + 1]
        at += 2
        slope = None
        if at < len(arrays) and arrays[at].size == bias.size:
            slope, at = arrays[at].reshape(-1), at + 1
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        layers.append(Layer(*(None if a is None else torch.tensor(a.copy(), device=device) for a in (kernel, bias, slope))))
    return tuple(layers)
