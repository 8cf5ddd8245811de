"""The metadata of one level: its config, and the description of each of its arrays."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.arrays import SHARD_FRAMES, read_array_meta, read_attributes
from d2st.cache.errors import StoreError
from d2st.cache.fingerprint import fingerprint
from d2st.cache.ledger import read_part
from d2st.cache.level import Level
from d2st.cache.store import CALIBRATION, read_calibration
from d2st.cache.verify.damage import Damage

__all__ = ["BROKEN", "LevelState", "inspect_level", "level_folders"]

# what broken content makes readers raise; StoreErrors are OSErrors
BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    ArithmeticError,
    pl.exceptions.PolarsError,
)
DIMS = {"frames": 3, "maps": 3, "scales": 2, "cls": 1}


@dataclass
class LevelState:
    """One level as far as it can be told.

    Attributes:
        level: with the config that its ledger parts agree on, where zarr.json is not to be trusted; None when nothing says the config.
        arrays: bytes of one frame, by array name; None where the array's metadata is damaged.
        shards: committed ones.
    """

    store: Path
    name: str
    format: int
    level: Level | None = None
    arrays: dict[str, int | None] = field(default_factory=dict)
    shards: set[int] = field(default_factory=set)
    damages: list[Damage] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.store / self.name

    @property
    def is_crops(self) -> bool:
        return self.name == "crops"

    def relative(self, path: Path) -> str:
        """`path` relative to the store."""
        return path.relative_to(self.store).as_posix()


def level_folders(store: Path) -> list[str]:
    """Names of what looks like a level, crops first."""
    found = [path.name for path in sorted(store.glob("tokens*")) if path.is_dir()]
    return ["crops", *found] if (store / "crops").is_dir() else found


def inspect_level(store: Path, name: str, store_format: int, *, samples: Callable[[], tuple[str, ...]]) -> LevelState:
    """Check everything in a level that does not belong to one shard.

    Args:
        samples: ids of all samples in the level, asked for when something is wrong.
    """
    state = LevelState(store, name, store_format)
    state.shards = {int(path.stem) for path in (state.path / "ledger").glob("*.parquet") if path.stem.isdecimal()}
    config, notes = _config(state, samples)
    if config is None:
        return state
    state.level = Level(store, name, config, fingerprint(config), notes, store_format)
    try:
        layout = _layout(state)
    except BROKEN as error:
        file = state.relative(state.path / "zarr.json")
        state.damages.append(Damage(file, "metadata", "metadata", f"no valid config: {error}", name, None, samples()))
        return state
    for array, (shape, dtype) in layout.items():
        _check_array(state, array, shape, dtype, samples)
    if not state.is_crops and config.get("dtype") == "int8":
        _check_calibration(state, samples)
    return state


def _config(state: LevelState, samples: Callable[[], tuple[str, ...]]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Config and notes; the ledger's parts overrule a zarr.json that they all contradict."""
    config, notes, fault = None, {}, None
    file = state.relative(state.path / "zarr.json")
    try:
        declared = read_attributes(state.path, sealed=state.format > 1)["d2st"]
        config, notes = dict(declared["config"]), dict(declared.get("notes", {}))
        if fingerprint(config) != declared["fingerprint"]:
            raise ValueError("its config does not match its fingerprint")
    except BROKEN as error:
        kind = "missing" if not (state.path / "zarr.json").exists() else "seal"
        config, fault = None, Damage(file, kind, "metadata", _text(error), state.name, None)
    written = _written_config(state) if state.format > 1 else None
    if fault is None and written is not None and fingerprint(written) != fingerprint(config):
        fault = Damage(file, "fingerprint", "metadata", "no ledger part was made with this config", state.name, None)
    if fault is not None:
        state.damages.append(Damage(fault.file, fault.kind, fault.mend, fault.detail, fault.level, None, samples()))
    return (config if written is None else written), notes


def _written_config(state: LevelState) -> dict[str, Any] | None:
    """The config that most of the first few readable ledger parts name."""
    texts: Counter[str] = Counter()
    for shard in sorted(state.shards):
        try:
            texts[json.dumps(read_part(state.path / "ledger", shard).config, sort_keys=True)] += 1
        except BROKEN:  # reported with the shard that it belongs to
            continue
        if texts.total() >= 5:
            break
    return json.loads(texts.most_common(1)[0][0]) if texts else None


def _layout(state: LevelState) -> dict[str, tuple[tuple[int, ...] | None, str]]:
    """Frame shape (None: unknown) and dtype of each array that the config asks for."""
    config = state.level.config
    if state.is_crops:
        return {"frames": ((config["size"], config["size"], 3), "uint8")}
    from d2st.cache.codec import stored_arrays

    shapes: Counter[tuple[int, ...]] = Counter()  # of the maps: the config does not name the grid
    for layer in config["layers"]:
        try:
            shapes[read_array_meta(state.path / layer / "maps")[0]] += 1
        except BROKEN:  # reported by _check_array
            continue
    known = shapes.most_common(1)[0][0] if shapes else None
    layout = stored_arrays(config["dtype"], known[:2] if known else (1, 1), known[2] if known else 1)
    return {
        f"{layer}/{kind}": (shape if known else None, dtype)
        for layer in config["layers"]
        for kind, (shape, dtype) in layout.items()
    }


def _check_array(
    state: LevelState, array: str, shape: tuple[int, ...] | None, dtype: str, samples: Callable[[], tuple[str, ...]]
) -> None:
    path = state.path / array
    state.arrays[array] = None
    if not path.exists() and not state.shards:
        return  # nothing was built yet
    kind = "metadata"
    try:
        if not (path / "zarr.json").exists():
            if not any(path.glob("c/*")):
                return  # shards without a single usable frame
            kind = "missing"
            raise ValueError("its zarr.json is lost")
        kind = "seal"
        read_attributes(path, sealed=state.format > 1)
        kind = "metadata"
        found, stored = read_array_meta(path)
        length = json.loads((path / "zarr.json").read_bytes())["shape"][0]
        if stored != dtype or (shape is not None and found != shape):
            raise ValueError(f"it says {stored} frames of shape {found}, not {dtype} of {shape}")
        there = [int(folder.name) for folder in path.glob("c/*") if folder.name.isdecimal()]
        if length < (max(state.shards & set(there), default=-1) + 1) * SHARD_FRAMES:
            raise ValueError(f"it ends after {length} frames, and the ledger has more")
        state.arrays[array] = int(np.prod(found)) * np.dtype(stored).itemsize
    except BROKEN as error:
        file = state.relative(path / "zarr.json")
        state.damages.append(Damage(file, kind, "metadata", _text(error), state.name, None, samples()))


def _check_calibration(state: LevelState, samples: Callable[[], tuple[str, ...]]) -> None:
    path = state.path / CALIBRATION
    if not path.exists() and not state.shards:
        return
    try:
        for layer, pair in read_calibration(state.level).items():
            if state.arrays.get(f"{layer}/cls") is None:  # reported with the array, and nothing to compare with
                continue
            shape, _ = read_array_meta(state.path / layer / "cls")
            if any(values.shape != shape for values in pair):
                raise ValueError(f"{layer} has {shape[0]} channels, it has {pair[0].shape}")
    except BROKEN as error:
        kind = "seal" if path.exists() else "missing"
        file = state.relative(path)
        state.damages.append(Damage(file, kind, "calibration", _text(error), state.name, None, samples()))


def _text(error: BaseException) -> str:
    return (error.message if isinstance(error, StoreError) else f"{type(error).__name__}: {error}")[:300]
