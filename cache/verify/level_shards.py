"""One shard of a level: its ledger part, its files, its statistics, and whether it belongs to the crops and the plan that are there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from d2st.cache.arrays import SHARD_FRAMES, shard_path
from d2st.cache.checksum import crc32c
from d2st.cache.errors import StoreError
from d2st.cache.fingerprint import fingerprint
from d2st.cache.ledger import Part, read_part
from d2st.cache.moments import counted_digest, moments_name, read_moments
from d2st.cache.staging import roll_forward
from d2st.cache.verify.damage import Damage
from d2st.cache.verify.level_files import BROKEN, DIMS, LevelState
from d2st.cache.verify.shard_file import check_shard_file

__all__ = ["Known", "ShardReport", "check_shard", "samples_of", "slots_of"]


@dataclass(frozen=True)
class Known:
    """What the rest of the store says.

    Attributes:
        planned: samples that any part of the plan places in a shard.
        counted: samples of the training split, or None when the manifest can't be read.
        crops: the crops level, None when there is none.
    """

    planned: Mapping[int, frozenset[str]]
    counted: frozenset[str] | None
    crops: LevelState | None


@dataclass(frozen=True)
class ShardReport:
    """What the check of one shard found; `unplanned` are cached or rejected samples that no part of the plan has."""

    damages: list[Damage]
    unplanned: tuple[str, ...]
    files: int
    bytes: int


def slots_of(rows: pl.DataFrame, shard: int) -> dict[int, str]:
    """Slot -> sample of a shard's rows, ascending. Raises ValueError when they leave the shard, overlap or contradict themselves."""
    slots: dict[int, str] = {}
    if rows["sample_id"].n_unique() != rows.height:
        raise ValueError("a sample stands in it twice")
    for sample, start, frames, reason in rows.select("sample_id", "start", "frames", "reason").iter_rows():
        if (reason is None) != (start is not None and frames > 0):
            raise ValueError(f"sample {sample} is neither cached nor rejected")
        for slot in range(start - shard * SHARD_FRAMES, start - shard * SHARD_FRAMES + frames) if reason is None else ():
            if not 0 <= slot < SHARD_FRAMES or slot in slots:
                raise ValueError(f"sample {sample} lies outside of the shard or on another sample")
            slots[slot] = sample
    return dict(sorted(slots.items()))


def samples_of(state: LevelState, shard: int, known: Known) -> tuple[str, ...]:
    """The samples that a shard must have held when its own ledger part can't say it."""
    for name in ("crops", "tokens", state.name):
        try:
            return tuple(sorted(read_part(state.store / name / "ledger", shard, sealed=state.format > 1).rows["sample_id"]))
        except BROKEN:  # the next one may know
            continue
    return tuple(sorted(known.planned.get(shard, ())))


def check_shard(state: LevelState, shard: int, known: Known, *, deep: bool) -> ShardReport:
    """Check one committed shard of a level."""
    mend = "crop" if state.is_crops else "encode"
    ledger = state.path / "ledger" / f"{shard:06d}.parquet"

    def damage(file: Path | str, kind: str, detail: str = "", samples: tuple[str, ...] = (), how: str = mend) -> Damage:
        name = file if isinstance(file, str) else state.relative(file)
        return Damage(name, kind, how, detail, state.name, shard, samples)

    try:
        raw = read_part(state.path / "ledger", shard, sealed=state.format > 1)
        everyone = tuple(sorted(raw.rows["sample_id"]))
    except BROKEN as error:
        kind = "seal" if ledger.exists() else "missing"
        return ShardReport([damage(ledger, kind, str(error)[:300], samples_of(state, shard, known))], (), 1, 0)
    part = _without_store_names(raw, state)
    found: list[Damage] = []
    files, read_bytes = 1, 0
    if state.level is not None and part.config is not None and fingerprint(part.config) != state.level.fingerprint:
        found.append(damage(ledger, "fingerprint", "another config than its level's", everyone))
    try:
        slots = slots_of(part.rows, shard)
        if set(part.files) != _expected_files(state, shard, bool(slots)):
            raise ValueError(f"it lists {len(part.files)} files, not those of its arrays")
    except BROKEN as error:
        return ShardReport([*found, damage(ledger, "rows", str(error)[:300], everyone)], (), files, 0)

    for name, digest in part.files.items():
        array = name.split("/c/")[0]
        check = {"frame_bytes": state.arrays.get(array), "deep": deep, "sealed": state.format > 1}
        fault, count = check_shard_file(state.path / name, digest, list(slots), **check)
        if fault is not None and fault.kind == "missing" and _moved_meanwhile(state, name):
            fault, count = check_shard_file(state.path / name, digest, list(slots), **check)
        files, read_bytes = files + 1, read_bytes + count
        if fault is not None:
            hit = tuple(sorted({slots[slot] for slot in fault.slots}))
            found.append(damage(state.path / name, fault.kind, fault.detail, hit))
    if state.is_crops:
        rows = part.rows["sample_id"]
        return ShardReport(found, tuple(sorted(set(rows) - known.planned.get(shard, frozenset()))), files, read_bytes)
    if (fault := _against_crops(state, part, known)) is not None:
        found.append(damage(ledger, *fault, everyone))
    if (fault := _moments_fault(state, raw, set(slots.values()), known)) is not None:
        found.append(damage(state.path / moments_name(shard), *fault, everyone, how="moments"))
    return ShardReport(found, (), files + 1, read_bytes)


def _without_store_names(part: Part, state: LevelState) -> Part:
    """Format 1 named files relative to the store, and the statistics among them."""
    if state.format > 1:
        return part
    files = {name.removeprefix(f"{state.name}/"): digest for name, digest in part.files.items()}
    return replace(part, files={name: digest for name, digest in files.items() if not name.startswith("moments/")})


def _expected_files(state: LevelState, shard: int, cached: bool) -> set[str]:
    if not cached or not state.arrays:
        return set()
    return {shard_path(Path(name), shard, frame_dims=DIMS[name.rsplit("/")[-1]]).as_posix() for name in state.arrays}


def _moved_meanwhile(state: LevelState, name: str) -> bool:
    """Whether a file of a committed shard was still in the staging area, and is in place now."""
    try:
        roll_forward(state.path)
    except (StoreError, OSError):  # a store that can't be written: the file stays where no reader finds it
        return False
    return (state.path / name).exists()


def _against_crops(state: LevelState, part: Part, known: Known) -> tuple[str, str] | None:
    """Kind and detail, when token maps are not those of the crops that are there."""
    if known.crops is None or part.shard not in known.crops.shards:
        return None  # reported with the crops
    try:
        crops = read_part(known.crops.path / "ledger", part.shard, sealed=state.format > 1)
    except BROKEN:  # reported with the crops
        return None
    if state.format > 1 and part.source != crops.content:
        return "stale", "made from other crops than those that are there"
    places = [
        set(rows.filter(pl.col("reason").is_null()).select("sample_id", "start", "frames").rows())
        for rows in (part.rows, crops.rows)
    ]
    return None if places[0] == places[1] else ("rows", "other samples or places than the crops have")


def _moments_fault(state: LevelState, part: Part, cached: set[str], known: Known) -> tuple[str, str] | None:
    path = state.path / moments_name(part.shard)
    if not path.exists():
        return "missing", ""
    try:
        moments, counted = read_moments(path, sealed=state.format > 1)
        if state.format == 1:
            digest = part.files[f"{state.name}/{moments_name(part.shard)}"]
            return ("checksum", "") if crc32c(path.read_bytes()) != digest.checksum else None
        wanted = {name for layer in state.level.config["layers"] for name in (layer, f"{layer}/cls")} if state.level else set()
        if known.counted is not None and counted != counted_digest(cached & known.counted):
            return "stale", "computed over other samples than the training split has now"
        if moments and wanted and set(moments) != wanted:
            return "metadata", "it is of other layers"
    except BROKEN as error:
        return "seal", str(error)[:300]
    return None
