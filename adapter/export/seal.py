"""An ONNX file that tells whether it was changed: onnxruntime takes any weights as they come.

A digest of the file, in which its own hex digits are 0, stands in its metadata. It is found in the bytes, so that it can be checked before
anything parses them. It finds damage and edits, not a forger, as `train.sealed` does for checkpoints.
"""

import hashlib
import re
from typing import Any

from d2st.adapter.export.about import KEY
from d2st.cache.errors import RunError

__all__ = ["check_seal", "seal"]

_NAME = f"{KEY}.digest"  # in metadata_props
_BLANK = "0" * 32
_WRITTEN = re.compile(re.escape(_NAME.encode()) + rb"\x12\x20([0-9a-f]{32})")  # a key and its value, as protobuf has them
_AGAIN = "Export it again"


def seal(model: Any) -> bytes:
    """An `onnx.ModelProto` as the bytes of a file."""
    props = model.metadata_props
    entry = next((entry for entry in props if entry.key == _NAME), None) or props.add(key=_NAME)
    entry.value = _BLANK
    entry.value = _digest(model.SerializeToString())
    return model.SerializeToString()


def check_seal(data: bytes, *, where: str) -> None:
    """Raise RunError unless `data` is what `seal` made; `where` is the file's name."""
    found = _WRITTEN.search(data)
    if found is None:
        raise RunError(
            f"{where} can't be read as a detector: it has no digest, so it is damaged, or was not made by d2st or by an older one",
            fix=_AGAIN,
        )
    start, end = found.span(1)
    if found[1].decode() != _digest(b"".join((data[:start], _BLANK.encode(), data[end:]))):
        raise RunError(f"{where} was changed or damaged after it was written: it does not match its digest", fix=_AGAIN)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
