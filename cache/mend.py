"""What can be mended from the store alone: metadata and plan follow from the ledger, and whole frames outlive their shard's index.

The ledger says everything twice over: each part names its level's config, its samples with their places, and the size of each file, from
which the shape of every array follows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from d2st.cache.arrays import array_metadata, group_metadata
from d2st.cache.checksum import crc32c, crc64
from d2st.cache.codec import stored_arrays
from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic
from d2st.cache.ledger import committed_shards, read_part
from d2st.cache.level import FORMAT, Level
from d2st.cache.plan import PLAN_SCHEMA, plan_part_bytes, plan_parts, read_plan_part
from d2st.cache.shard import CRC_BYTES, FileDigest
from d2st.cache.verify.level_files import BROKEN, LevelState
from d2st.cache.verify.level_shards import slots_of
from d2st.cache.verify.shard_file import index_bytes, index_size

__all__ = ["known_rows", "mend_file", "mend_metadata", "mend_plan", "salvage"]


def mend_metadata(store: Path, files: Iterable[str], levels: Mapping[str, LevelState]) -> dict[str, str]:
    """Write zarr.json files again.

    Args:
        files: relative to the store, such as "tokens/block_2/maps/zarr.json".
        levels: by name, as `verify.level_files.inspect_level` gives them.

    Returns:
        Why not, by file, for those that could not be written.
    """
    left = {}
    for file in sorted(files, key=len):  # a level before its arrays
        folder = Path(file).parent
        try:
            if folder == Path("."):
                data = group_metadata({"d2st": {"format": FORMAT}})
            else:
                level = levels[folder.parts[0]].level
                if level is None:
                    raise StoreError("no ledger part of the level says with which config it was made")
                data = _level_metadata(level) if len(folder.parts) == 1 else _array_metadata(level, "/".join(folder.parts[1:]))
            write_atomic(store / file, data)
        except BROKEN as error:
            left[file] = str(error)
    return left


def _level_metadata(level: Level) -> bytes:
    notes = level.notes
    names = [level.name, *sorted(path.parent.name for path in level.store.glob("tokens*/zarr.json"))]
    for name in (
        names if level.name != "crops" else ()
    ):  # what a broken seal leaves of them, else those of a level of the same weights
        try:
            declared = json.loads((level.store / name / "zarr.json").read_bytes())["attributes"]["d2st"]
            if declared["config"]["weights_digest"] == level.config["weights_digest"]:
                notes = notes or dict(declared["notes"])
        except BROKEN:  # they only say where the weights were; `--pretrained` does so too
            continue
    return group_metadata({"d2st": {"config": level.config, "fingerprint": level.fingerprint, "notes": notes}})


def _array_metadata(level: Level, array: str) -> bytes:
    planned = [committed_shards(level.ledger)]
    for path in plan_parts(level.store / "plan"):
        try:
            planned.append({read_plan_part(path)[1] - 1})
        except StoreError:  # it only says how far the array may grow
            continue
    shards = max(set().union(*planned)) + 1
    if level.name == "crops":
        size = level.config["size"]
        return array_metadata((size, size, 3), "uint8", shards, {})
    layer, kind = array.rsplit("/", 1)
    shape, dtype = _stored_shapes(level, layer)[kind]
    return array_metadata(shape, dtype, shards, {"d2st_dtype": level.config["dtype"]} if dtype == "uint16" else {})


def _stored_shapes(level: Level, layer: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Frame shape and dtype of each kind of a layer, from the sizes of its files: the grid of a backbone is square."""
    dtype = level.config["dtype"]
    for shard in sorted(level.committed()):
        try:
            part = level.part(shard)
            slots = slots_of(part.rows, shard)
        except BROKEN:  # another one will do
            continue
        sizes = {name.split("/c/")[0]: digest.size_bytes for name, digest in part.files.items()}
        if not slots or f"{layer}/cls" not in sizes:
            continue
        frame_bytes = {kind: (sizes[f"{layer}/{kind}"] - index_size()) // len(slots) - CRC_BYTES for kind in ("maps", "cls")}
        channels = frame_bytes["cls"] // 2
        tokens = frame_bytes["maps"] // (1 if dtype == "int8" else 2) // channels
        side = round(tokens**0.5)
        if side * side != tokens:
            raise StoreError(f"the shape of {layer} can't be told from the sizes of its files")
        return stored_arrays(dtype, (side, side), channels)
    raise StoreError(f"no shard of {level.path} has frames")


def mend_plan(store: Path) -> None:
    """Write damaged and missing parts of the plan again: what the ledger has, and no readable part names, was theirs."""
    ledger = [rows.with_columns(shard=pl.lit(shard, pl.Int32)) for shard, rows in _ledgers(store)]
    rows = pl.concat([PLAN_SCHEMA.to_frame(), *(part.select("sample_id", "shard", slots="planned") for part in ledger)])
    sound: dict[int, pl.DataFrame] = {}
    there = [int(path.stem) for path in plan_parts(store / "plan")]
    for number in there:
        try:
            sound[number] = read_plan_part(store / "plan" / f"{number:05d}.parquet")[0]
        except StoreError:  # this is what we are here for
            continue
    rows = rows.join(
        pl.concat([PLAN_SCHEMA.to_frame(), *sound.values()]), on=["sample_id", "shard"], how="anti", maintain_order="left"
    )
    damaged = sorted(set(range(max(there, default=-1) + 1)) - sound.keys())
    if not damaged and rows.height:
        damaged = [max(there, default=-1) + 1]
    for position, number in enumerate(damaged):
        # shard numbers grow from part to part: a part's shards lie below those of all later ones
        following = [part["shard"].min() for later, part in sound.items() if later > number and part.height]
        last = position == len(damaged) - 1
        below = rows["shard"] < min(following) if following else rows["shard"] == rows["shard"]
        part = rows.filter(below | last).sort("shard", maintain_order=True)
        rows = rows.filter(~(below | last))
        following_shard = int(part["shard"].max()) + 1 if part.height else 0  # type: ignore[arg-type]
        write_atomic(store / "plan" / f"{number:05d}.parquet", plan_part_bytes(part, next_shard=following_shard))


def _ledgers(store: Path) -> Iterable[tuple[int, pl.DataFrame]]:
    folders = [store / "crops" / "ledger", *store.glob("tokens*/ledger")]  # token maps know a shard whose crops' part is lost
    for shard in sorted(set().union(*(committed_shards(folder) for folder in folders))):
        rows, _ = known_rows(store, shard)
        if rows is not None:
            yield shard, rows


def known_rows(store: Path, shard: int) -> tuple[pl.DataFrame | None, bool]:
    """The ledger rows of a shard of crops, and whether they are complete: where its own part is lost, token maps know the cached ones."""
    for name in ("crops", *sorted(path.parent.parent.name for path in store.glob(f"tokens*/ledger/{shard:06d}.parquet"))):
        try:
            rows = read_part(store / name / "ledger", shard).rows
            slots_of(rows, shard)
            return rows, name == "crops"
        except BROKEN:  # the next one may know
            continue
    return None, False


def mend_file(path: Path, digest: FileDigest, slots: Sequence[int]) -> bool:
    """Write a shard file again if all of its frames are whole, and they are the very ones that were written (`digest`)."""
    frame_bytes = (digest.size_bytes - index_size()) // max(1, len(slots)) - CRC_BYTES
    found = salvage(path, slots, frame_bytes)
    if len(found) < len(slots) or not slots:
        return False
    frames = [part for slot in slots for part in (found[slot], crc32c(found[slot]).to_bytes(CRC_BYTES, "little"))]
    data = b"".join([*frames, index_bytes(slots, frame_bytes + CRC_BYTES)])
    if (len(data), crc64(data)) != (digest.size_bytes, digest.checksum):
        return False
    write_atomic(path, data)
    return True


def salvage(path: Path, slots: Sequence[int], frame_bytes: int) -> dict[int, bytes]:
    """The frames of a shard file that are whole, by slot, whatever became of its index or its end.

    Args:
        slots: those that hold a frame, ascending; the frames lie in this order.
    """
    found: dict[int, bytes] = {}
    try:
        with open(path, "rb") as file:
            for slot in slots:
                chunk = file.read(frame_bytes + CRC_BYTES)
                if (
                    crc32c(chunk[:-CRC_BYTES]) == int.from_bytes(chunk[-CRC_BYTES:], "little")
                    and len(chunk) == frame_bytes + CRC_BYTES
                ):
                    found[slot] = chunk[:-CRC_BYTES]
    except OSError:  # what could be read is what there is
        pass
    return found
