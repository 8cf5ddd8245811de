"""Checkpoints: safetensors with everything that a prediction needs in the same file, and nothing that could run code.

A checkpoint carries the weights, the channel statistics, the calibration of int8 token maps, and as JSON in its header what the adapter
is and how its input was made, so that `predict` needs no store and no recipe. The state to resume from lies beside it, in the same format.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2st.adapter.nets import Detector, Head, build_adapter
from d2st.adapter.train.optim import Ema
from d2st.adapter.train.sealed import read_sealed, read_sealed_meta, write_sealed
from d2st.cache.codec import Calibration
from d2st.cache.errors import D2stError, RunError

__all__ = [
    "BEST",
    "LAST",
    "STATE",
    "build_detector",
    "load_detector",
    "load_state",
    "load_weights",
    "read_meta",
    "resolve_checkpoint",
    "save_checkpoint",
    "save_state",
]

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "last.state.safetensors"
FORMAT = 2  # 1 had other names for the parts that read the maps
Stats = Mapping[str, tuple[Any, Any]]


def build_detector(meta: Mapping[str, Any], stats: Stats) -> Detector:
    """A detector with fresh weights.

    Args:
        meta: keys adapter, adapter_params, layers, channels, grid.
        stats: layer -> mean (C,) and standard deviation (C,).
    """
    adapter = build_adapter(
        meta["adapter"],
        layers=tuple(meta["layers"]),
        channels=meta["channels"],
        grid=tuple(meta["grid"]),
        stats=stats,
        **meta["adapter_params"],
    )
    return Detector(adapter, Head(adapter.embed_dim))


def save_checkpoint(
    path: Path, detector: torch.nn.Module, *, meta: Mapping[str, Any], stats: Stats, calibration: Calibration | None = None
) -> None:
    """Write weights, statistics, `calibration` (of int8 token maps) and `meta` (JSON values) as one file, all or nothing."""
    tensors = {f"model.{name}": value for name, value in detector.state_dict().items()}
    for kind, pairs in (("stats", stats), ("calibration", calibration or {})):
        for layer, (mean, deviation) in pairs.items():
            tensors[f"{kind}.{layer}.mean"], tensors[f"{kind}.{layer}.std"] = torch.as_tensor(mean), torch.as_tensor(deviation)
    write_sealed(path, tensors, {"format": FORMAT, **meta})


def load_detector(path: Path | str, *, device: str = "cpu") -> tuple[Detector, dict[str, Any]]:
    """A trained detector in evaluation mode, and what its checkpoint says of itself.

    Args:
        path: a checkpoint, a stage's folder (its best checkpoint), or a run's folder (its last stage).

    Returns:
        The detector on `device`, and a dict with stage, adapter, adapter_params, layers, channels, grid, clip_frames (T of a clip; 1 means
        that frames are scored alone), fingerprint and config of the token maps, epoch, metric, seed, label_smoothing; and calibration:
        layer -> mean (C,) and deviation (C,) by which the token maps were quantised, empty unless they are int8.

    Raises:
        RunError: there is no checkpoint, or it is a pickle, damaged, changed since it was written, of another format, or its weights are
            not finite or not those of the adapter that it describes.
    """
    path = resolve_checkpoint(path)
    tensors, meta = _load(path)
    try:
        detector = build_detector(meta, _pairs(tensors, "stats"))
    except D2stError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} does not describe a detector: {type(error).__name__}: {error}", fix="Train again") from error
    _load_into(detector, tensors, path)
    return detector.to(device).eval(), {**meta, "calibration": _pairs(tensors, "calibration")}


def load_weights(detector: torch.nn.Module, path: Path) -> dict[str, Any]:
    """Make a detector of the same shape say what the checkpoint's says, head and conditioning included; returns its meta.

    Raises:
        RunError: the file is damaged, or its weights do not fit.
    """
    tensors, meta = _load(path)
    _load_into(detector, tensors, path)
    return meta


def read_meta(path: Path) -> dict[str, Any]:
    """A checkpoint's meta without its tensors. Raises RunError as `load_detector` does."""
    return read_sealed_meta(path)


def resolve_checkpoint(path: Path | str) -> Path:
    """The checkpoint meant by a file, a stage's folder, or a run's folder (its highest stage). Raises RunError when there is none."""
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / BEST, *(path / f"stage{stage}" / BEST for stage in (3, 2, 1))):
        if candidate.is_file():
            return candidate
    what = "holds no checkpoint" if path.is_dir() else "does not exist"
    raise RunError(f"{path} {what}", fix=f"Name a run, one of its stages, or a {BEST} file; `d2st train` makes them")


def save_state(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, progress: Mapping[str, Any]
) -> None:
    """Write what a resumed run needs: own weights, AdamW's moments, averages, and `progress` (JSON values).

    Random numbers have no state here: each step draws its own from (seed, epoch, step), and `progress` holds these three.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"optimizer.{key}.{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.averages.items()}
    write_sealed(path, tensors, {"format": FORMAT, **progress})


def load_state(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> dict[str, Any]:
    """Put a saved state back; returns its progress."""
    tensors, progress = _load(path)
    _load_into(model, tensors, path)
    for name, parameter in model.named_parameters():
        moments = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if all(value is not None for value in moments.values()):
            on_host = parameter.device.type == "cpu"
            optimizer.state[parameter] = {k: v if on_host else v.to(parameter.device) for k, v in moments.items()}
    if ema is not None:
        for name, average in ema.averages.items():
            average.copy_(tensors[f"ema.{name}"])
    return progress


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    _check_format(path, read_meta(path))
    return read_sealed(path)


def _check_format(path: Path, meta: Mapping[str, Any]) -> None:
    if meta.get("format") != FORMAT:
        raise RunError(
            f"{path} has checkpoint format {meta.get('format')}, this d2st reads {FORMAT}",
            fix="Train again, or use the d2st that wrote it",
        )


def _pairs(tensors: Mapping[str, Tensor], kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation (C,) by name, as `save_checkpoint` wrote them under `kind`."""
    names = [key.removeprefix(f"{kind}.").removesuffix(".mean") for key in tensors if key.startswith(f"{kind}.")]
    return {
        name: (tensors[f"{kind}.{name}.mean"], tensors[f"{kind}.{name}.std"]) for name in names if not name.endswith(".std")
    }


def _load_into(detector: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    wanted = detector.state_dict()
    findings = {
        "they lack": [name for name in wanted if name not in weights],
        "they have too many:": [name for name in weights if name not in wanted],
        "shapes differ:": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in weights and weights[name].shape != value.shape
        ],
    }
    for what, names in findings.items():
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise RunError(
                f"the weights in {path} do not fit this adapter: {what} {shown}",
                fix="Use the same adapter, layers and parameters as the run that wrote them, or --init none",
            )
    detector.load_state_dict(weights)
