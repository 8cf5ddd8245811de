"""Reading, checking and naming the weights of a visual tower.

The one decision: a file is believed only after every tensor was looked at. All names, shapes and values of the visual tower
must be there and finite; what belongs to the text tower is ignored, so a file may hold the `visual.` part alone. Files are
read as safetensors or through torch's `weights_only` unpickler, which runs no code.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from open_clip.model import resize_pos_embed
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from d2st.cache.errors import WeightsError

__all__ = ["POSITIONS", "fit_positions", "load_weights", "read_visual_state", "weights_digest"]

POSITIONS = "positional_embedding"
_PREFIX = "visual."
_SHOWN = 3  # names listed in a message before "and N more"


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """BLAKE2b-128 (32 hex digits) over the tensors of a state dict: sorted names, dtypes, shapes and bytes.

    It does not depend on the device or the order of the mapping. Take it of the float32 tower, before any cast.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_visual_state(path: Path) -> dict[str, Tensor]:
    """Read the visual tower's tensors of a CLIP weights file, on the CPU, named without their "visual." prefix.

    Reads .safetensors, and .pt, .pth and .bin files that hold a state dict, bare or under "state_dict", with or without a
    "module." prefix. Raises WeightsError when the file can't be read or holds no visual tower in open_clip's naming.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not state:
        raise WeightsError(
            f"{path.name} holds no '{_PREFIX}*' tensors",
            fix="Pass a CLIP file in open_clip's naming; files of Hugging Face transformers must be converted first",
        )
    return state


def fit_positions(visual: VisionTransformer, state: Mapping[str, Tensor], *, tokens: int) -> dict[str, Tensor]:
    """`state` with its position embedding interpolated to the tower's grid: the one tensor that depends on the size of the input.

    By open_clip's own function (bicubic, antialiased), so this is its `force_image_size`.

    Args:
        tokens: what the model has at its own size, CLS included. An embedding of another length is left as it is: it fits, or is refused.
    """
    positions = state.get(POSITIONS)
    if positions is None or positions.shape != (tokens, visual.transformer.width) or not positions.is_floating_point():
        return dict(state)
    named = {f"{_PREFIX}{POSITIONS}": positions.float()}  # (1 + H*W, C)
    resize_pos_embed(named, SimpleNamespace(visual=visual))
    return {**state, POSITIONS: named[f"{_PREFIX}{POSITIONS}"]}


def load_weights(visual: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy `state` into the tower (as float32) after checking names, shapes and values; `origin` is for messages.

    Raises WeightsError naming the first few tensors that are missing, too many, misshaped, or not finite.
    """
    wanted = visual.state_dict()
    fix = "Check that the backbone's name and the weights belong together"
    missing = [name for name in wanted if name not in state]
    surplus = [name for name in state if name not in wanted]
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    for what, names in (("lacks", missing), ("has wrong shapes:", misshaped), ("has unknown tensors:", surplus)):
        if names:
            raise WeightsError(f"{origin} {what} {_some(names)}", fix=fix)
    broken = [name for name in wanted if not (state[name].is_floating_point() and bool(state[name].isfinite().all()))]
    if broken:
        raise WeightsError(f"{origin} has values that are not finite numbers in {_some(broken)}", fix="Get the file again")
    visual.load_state_dict(dict(state))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118 (not a mapping)
            return {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} can't be read as safetensors: {error}", fix="Get the file again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    if _is_torchscript(path):
        raise WeightsError(
            f"{path.name} is a TorchScript program, as OpenAI publishes its weights, and d2st runs no code from files",
            fix="Pass the same weights as open_clip_model.safetensors, or save torch.jit.load(FILE).state_dict() where you trust it",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # the unpickler raises what it likes on a damaged file; its words are torch's advice to run the file's code
        raise WeightsError(
            f"{path.name} can't be read as plain weights: it is damaged, or holds more than tensors and d2st runs no code from files",
            fix="Get the file again, or save model.state_dict() alone where you trust it",
        ) from error
    if isinstance(state, Mapping) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path.name} holds a {type(state).__name__}, not a state dict", fix="Save model.state_dict()")
    named = {str(name).removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return {name.removeprefix(_PREFIX): tensor for name, tensor in named.items() if name.startswith(_PREFIX)}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
