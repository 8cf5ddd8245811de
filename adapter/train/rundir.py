"""Run directories: what lies where, what a run records of its surroundings, and which earlier stage a new one starts from.

runs/<name>/stage1/  recipe.toml          the resolved recipe
                     environment.json     versions and device
                     fingerprint.json     which cache, which samples
                     samples.parquet      the samples and the labels that training saw
                     mix.json             how many samples each data set, kind and label had, and gave
                     metrics.jsonl        a line an epoch
                     log.txt              the same for people
                     best.safetensors     by validation alone
                     last.safetensors     the newest epoch; last.state.safetensors to resume
                     gap_before.json      of stage 3: the modality gap of the weights that it starts from
                     result.json          written when the stage is finished, and only then
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.train.checkpoint import BEST, STATE
from d2st.cache.errors import RunError, UsageError
from d2st.cache.files import write_atomic

__all__ = [
    "FINGERPRINT",
    "RECIPE",
    "RESULT",
    "default_name",
    "environment",
    "find_previous",
    "finished_now",
    "is_begun",
    "manifest_digest",
    "open_stage",
    "read_json",
    "refuse_taken",
    "stage_folder",
    "write_json",
]

RECIPE, FINGERPRINT, RESULT = "recipe.toml", "fingerprint.json", "result.json"
PACKAGES = ("d2st", "torch", "numpy", "polars", "safetensors", "zarr", "open_clip_torch")


def default_name(now: datetime | None = None) -> str:
    """A run's name when none is given: local date and time, so names sort by age."""
    return (now or datetime.now()).strftime("%Y%m%d-%H%M%S")


def stage_folder(runs: Path, name: str, stage: int) -> Path:
    """runs/<name>/stage<N>. Raises UsageError when the name would leave `runs`."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise UsageError(f"{name!r} can't be the name of a run", fix="Use letters, digits, dashes and dots, without a slash")
    return runs / name / f"stage{stage}"


def refuse_taken(folder: Path, *, resume: bool) -> None:
    """Raise RunError when a stage's folder holds anything and is not to be resumed."""
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise RunError(f"{folder} already holds a run", fix="Go on with it by --resume, or choose another --name")


def is_begun(folder: Path) -> bool:
    """Whether a stage has a state to go on from, or is finished."""
    return (folder / STATE).is_file() or (folder / RESULT).is_file()


def open_stage(folder: Path) -> None:
    """Make a stage's folder. Raises RunError when it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"can't make the run directory {folder}: {error.strerror}", fix="Choose another --runs folder"
        ) from error


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for reports; no path and no host name."""
    import torch

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine(),
        "cuda": torch.version.cuda if device.startswith("cuda") else None,
        "packages": packages,
    }


def manifest_digest(samples: pl.DataFrame) -> str:
    """blake2b-128 over id, label, split, kind, video and the cached rows of every sample: changes when what is trained or tested on
    changes, and when it lies elsewhere in the cache."""
    columns = ("sample_id", "label", "split", "kind", "video_id", "start", "frames_cached")
    lines = samples.sort("sample_id").select(
        pl.concat_str([pl.col(name).cast(pl.String).fill_null("") for name in columns], separator="\0")
    )
    return hashlib.blake2b("\n".join(lines.to_series()).encode(), digest_size=16).hexdigest()


def find_previous(runs: Path, *, stage: int, fingerprint: str, adapter: str, prefer: str | None = None) -> Path | None:
    """The best checkpoint of the newest finished run of `stage` on the same token maps with the same adapter, or None.

    The run named `prefer` comes first, whatever its age: a run's stage 2 starts from its own stage 1. Runs with shuffled labels
    never count.
    """
    found = []
    for path in sorted(runs.glob(f"*/stage{stage}/{RESULT}")):
        result = read_json(path)
        matches = (
            result.get("fingerprint") == fingerprint and result.get("adapter") == adapter and not result.get("shuffled_labels")
        )
        if matches and (path.parent / BEST).is_file():
            found.append((path.parent.parent.name == prefer, result["finished_at_s"], path.parent / BEST))
    return max(found)[2] if found else None


def finished_now() -> dict[str, Any]:
    """The finish time as seconds since 1970, which compares, and as text, which reads."""
    now = time.time()
    return {"finished_at_s": now, "finished_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, all or nothing."""
    write_atomic(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of a run. Raises RunError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is missing or damaged: {error}", fix="Remove that run, or restore the file") from error
