"""Tensors and JSON in one safetensors file that tells whether it is what was written.

The decision that shaped it: the header carries a BLAKE2b of the JSON and of each tensor (name, dtype, shape, bytes), so a file that was
changed is refused by the name of what changed, and the JSON can be read and trusted without the tensors. It finds damage and edits, not a
forger: who recomputes the digests too makes another valid file. All checks take 0.8 ms a MB, reading 0.5.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from d2st.cache.errors import RunError
from d2st.cache.files import write_atomic

__all__ = ["read_sealed", "read_sealed_meta", "write_sealed"]

HEADER = "d2st"  # the key of our JSON in a safetensors header; one alone, since those of several are written in any order
DIGESTS = "digests"  # its key there: hex digits by tensor, and under HEADER those of the rest of the JSON
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_AGAIN = "Restore the file from a copy, or train again"


def write_sealed(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON values as one file, all or nothing."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    digests = {HEADER: _json_digest(meta), **{name: _tensor_digest(name, value) for name, value in plain.items()}}
    text = json.dumps({**meta, DIGESTS: digests}, sort_keys=True)
    write_atomic(path, save(plain, metadata={HEADER: text}))


def read_sealed_meta(path: Path) -> dict[str, Any]:
    """The JSON of a file, from the header alone.

    Raises:
        RunError: it is a pickle or another kind of file, damaged, or its JSON was changed; or it has no digests.
    """
    return _header(path)[0]


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, and its JSON.

    Raises:
        RunError: as `read_sealed_meta`; or a tensor was changed, added, taken away, or holds values that are not finite. Names them.
    """
    meta, digests = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    _check_tensors(path, tensors, {name: value for name, value in digests.items() if name != HEADER})
    if broken := [n for n, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]:
        raise RunError(
            f"{path} holds NaN or infinity in {_some(broken)}",
            fix="Take an earlier checkpoint, or train again with a lower rate",
        )
    return tensors, meta


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """JSON and digests, the JSON checked by its own."""
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        meta = json.loads(header[HEADER])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from error
    digests = meta.pop(DIGESTS, None) if isinstance(meta, dict) else None
    if not isinstance(meta, dict):
        raise _unreadable(path, "its header is not what d2st writes")
    if not isinstance(digests, dict):
        raise RunError(
            f"{path} has no digests: an older d2st wrote it, or it was changed",
            fix="Train again, or use the d2st that wrote it",
        )
    if digests.get(HEADER) != _json_digest(meta):
        raise RunError(f"{path} was changed after it was written: its description does not match its digest", fix=_AGAIN)
    return meta, digests


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], digests: Mapping[str, str]) -> None:
    findings = {
        "lacks": [name for name in digests if name not in tensors],
        "has more than was written:": [name for name in tensors if name not in digests],
        "does not match its digest in": [n for n, t in tensors.items() if n in digests and digests[n] != _tensor_digest(n, t)],
    }
    for what, names in findings.items():
        if names:
            raise RunError(f"{path} was changed or damaged after it was written: it {what} {_some(names)}", fix=_AGAIN)


def _refuse_pickle(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start[8:] == b"{":  # safetensors: the length of a header, of any bytes, and the header
        return
    if start.startswith(_ZIP) and path.suffix == ".pt2":
        raise RunError(f"{path} is an exported program, not a checkpoint", fix="Use it with `d2st predict`; here name the run")
    if start.startswith((_PICKLE, _ZIP)):
        raise RunError(
            f"{path} is a pickle, as torch.save writes it, and d2st opens none: reading one can run any code",
            fix="Name the .safetensors checkpoint of a run",
        )


def _unreadable(path: Path, error: object) -> RunError:
    said = str(error) or type(error).__name__
    return RunError(f"{path} can't be read as a d2st checkpoint: {said}", fix=_AGAIN)


def _json_digest(meta: Mapping[str, Any]) -> str:
    return _digest(json.dumps(meta, sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _tensor_digest(name: str, tensor: Tensor) -> str:
    digest = hashlib.blake2b(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode(), digest_size=16)
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
