"""What an exported file says of itself: one JSON document, under one name in every format."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from d2st.cache.errors import RunError

__all__ = ["FORMAT", "KEY", "check_about", "describe", "temperatures", "versions"]

FORMAT = 1
KEY = "d2st"  # of ONNX's metadata_props; the extra file of a pt2 is KEY.json
PACKAGES = ("d2st", "torch", "open_clip_torch", "onnx", "onnxscript", "onnxruntime")
POOLED = "all"  # as in `evaluate.operating`


def describe(
    meta: Mapping[str, Any],
    *,
    checkpoint: str,
    inputs: Mapping[str, Sequence[int]],
    frames: tuple[int, int],
    batch: tuple[int, int],
    opset: int | None,
) -> dict[str, Any]:
    """The document, but for the parity, which is added when it is known.

    Args:
        meta: the checkpoint's, with its calibration of int8 maps.
        checkpoint: `checkpoint_digest` of the file that this was made from.
        inputs: name -> shape of one frame, as for `write.trace`.
        frames, batch: least and greatest T and B that the graph takes.
        opset: of ONNX.

    Returns:
        {"format", "eats": "crops" or "maps", "inputs", "frames", "batch", "opset", "checkpoint", "versions", "temperatures", "calibration",
        "meta"}, JSON values. `meta` holds the front end's config, the fingerprint, clip_frames, and, where the checkpoint has them, clip_s
        and the operating points.
    """
    calibration = {layer: [_floats(part) for part in pair] for layer, pair in meta.get("calibration", {}).items()}
    return {
        "format": FORMAT,
        "eats": "crops" if "crops" in inputs else "maps",
        "inputs": {name: list(shape) for name, shape in inputs.items()},
        "frames": list(frames),
        "batch": list(batch),
        "opset": opset,
        "checkpoint": checkpoint,
        "versions": versions(),
        "temperatures": dict(zip(("still", "clip"), temperatures(meta), strict=True)),
        "calibration": calibration,
        "meta": {key: value for key, value in meta.items() if key != "calibration"},
    }


def check_about(text: str | bytes, *, where: str) -> dict[str, Any]:
    """The document of a file, if this d2st can use it; `text` is "" where it has none. Raises RunError."""
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"format", "eats", "inputs", "meta"} <= about.keys():
        raise RunError(f"{where} was not made by d2st: it does not say what it is", fix="Make it with `d2st export`")
    if about["format"] != FORMAT:
        raise RunError(f"{where} has export format {about['format']}, this d2st reads {FORMAT}", fix="Export it again")
    return about


def temperatures(meta: Mapping[str, Any]) -> tuple[float, float]:
    """By which logits of stills and of clips are divided: each kind's own, else that of both pooled, else 1."""
    points = meta.get("operating") or {}

    def fitted(kind: str) -> float:
        found = (points.get(name, {}).get("temperature") for name in (kind, POOLED))
        return next((value for value in found if value is not None), 1.0)

    return fitted("image"), fitted("video")


def versions() -> dict[str, str]:
    """Of Python and of what takes part in an export, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _floats(vector: Any) -> list[float]:
    return [float(value) for value in vector]
