"""Give back the room of what nobody wants any more: samples that left the manifest, superseded rows, leftovers of killed builders.

Rows never move, so a shard that still holds wanted samples keeps them where they are and shrinks around them; shards with nothing to drop
are not touched. Each shard is replaced by the commit protocol, alone with the store; stopped anywhere, the same command goes on.
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import polars as pl

from d2st.cache.claims import Claims
from d2st.cache.files import write_atomic
from d2st.cache.ledger import committed_shards, rows_among
from d2st.cache.leftovers import leftovers
from d2st.cache.level import Level, open_level, require_writable
from d2st.cache.plan import plan_part_bytes, plan_parts, read_plan_part
from d2st.cache.rewrite import remove_shard, rewrite_shard
from d2st.cache.store import Store
from d2st.cache.verify.level_files import level_folders
from d2st.cache.verify.shard_file import index_size

__all__ = ["Collected", "collect"]


@dataclass
class Collected:
    """What was, or would be, given back.

    Attributes:
        samples: ids that left the store.
        superseded: rows of samples that lie elsewhere by now.
        frames: of crops.
        rewritten, removed: shards that shrank, and that are gone.
        leftovers: files and folders of killed builders.
        bytes: freed on the disk.
    """

    dry_run: bool
    samples: list[str] = field(default_factory=list)
    superseded: int = 0
    frames: int = 0
    rewritten: int = 0
    removed: int = 0
    leftovers: int = 0
    bytes: int = 0
    seconds: float = 0.0


def collect(
    store_path: Path,
    *,
    wanted: Collection[str] | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Drop what is not wanted.

    Args:
        wanted: ids of the samples to keep; those of the store's own manifest, as of its last build, by default.
        dry_run: change nothing, say what would be done.
        on_progress: called with (shards done, shards in all).

    Raises:
        StoreError: the store is damaged where it would have to be rewritten, of an older format, or somebody is at work on it.
    """
    begin = perf_counter()
    require_writable(store_path)
    result = Collected(dry_run)
    if dry_run:
        _collect(Store.open(store_path), wanted, result, None, on_progress)
    else:
        with Claims(store_path / "claims", purpose="gc") as claims, claims.alone():
            _collect(Store.open(store_path), wanted, result, claims, on_progress)
    result.seconds = perf_counter() - begin
    return result


def _collect(
    store: Store,
    wanted: Collection[str] | None,
    result: Collected,
    claims: Claims | None,
    on_progress: Callable[[int, int], None],
) -> None:
    manifest, plan = store.manifest(), store.plan()
    keep = set(manifest["sample_id"] if wanted is None else wanted)
    counted = set(manifest.filter(pl.col("split") == "train")["sample_id"])
    places = plan.filter(pl.col("sample_id").is_in(list(keep))).select("sample_id", "shard")
    result.samples = sorted(set(plan["sample_id"]) - keep)
    names = ["crops"] if (store.path / "crops" / "zarr.json").exists() else []
    crops = [open_level(store.path, name) for name in names]
    tokens = [(level, level.committed()) for name in store.token_sets() for level in store.token_levels(name)]
    shards, hollow = sorted(crops[0].committed()) if crops else [], set[int]()
    places_in = {shard: set(places["sample_id"]) for (shard,), places in places.group_by("shard")}
    for done, shard in enumerate(shards):
        on_progress(done, len(shards))
        rows = crops[0].part(shard).rows
        kept = rows_among(rows, places_in.get(shard, set()))
        if not (rows if result.dry_run else kept)["frames"].sum():
            hollow.add(shard)
        if kept.height == rows.height:
            continue
        dropped = rows.join(kept, on="sample_id", how="anti")
        result.superseded += rows_among(dropped, keep).height
        result.frames += int(dropped["frames"].sum())
        having = [level for level, committed in tokens if shard in committed]
        result.bytes += _freed(having + crops, shard, int(dropped["frames"].sum()), int(rows["frames"].sum()))
        result.removed += kept.is_empty()
        result.rewritten += not kept.is_empty()
        if claims is None:
            continue
        with claims.alone():  # again: we may have slept
            if kept.is_empty():
                remove_shard([*crops, *having], shard)
            else:
                rewrite_shard(crops[0], having, shard, kept, counted=counted)
    on_progress(len(shards), len(shards))
    _clean_up(store.path, result, planned=set(places["shard"]), hollow=hollow)
    if claims is not None:
        _shrink_plan(store.path / "plan", places)
        if not set(manifest["sample_id"]) <= keep:
            store.write_manifest(manifest.filter(pl.col("sample_id").is_in(list(keep))))


def _freed(levels: Collection[Level], shard: int, dropped: int, frames: int) -> int:
    """Bytes that a shard gives back in these levels when so many of its frames go."""
    index = index_size()
    sizes = [digest.size_bytes for level in levels for digest in level.part(shard).files.values()]
    return sum(size if dropped == frames else (size - index) // frames * dropped for size in sizes) if dropped else 0


def _shrink_plan(folder: Path, places: pl.DataFrame) -> None:
    """Leave one place for each sample that is kept, and no others. Numbers of shards stay used."""
    for path in plan_parts(folder):
        part, following = read_plan_part(path)
        kept = part.join(places, on=["sample_id", "shard"], how="semi", maintain_order="left")
        if kept.height < part.height:
            write_atomic(path, plan_part_bytes(kept, next_shard=following))


def _clean_up(store: Path, result: Collected, *, planned: Collection[int], hollow: Collection[int]) -> None:
    """Leftovers of killed builders, and files of shards that neither ledger nor plan has, or that hold no frame (`hollow`)."""
    for leftover in leftovers(store):
        _remove(leftover.path, leftover.bytes, result)
    for level in level_folders(store):
        known = committed_shards(store / level / "ledger") | set(planned)
        found = [(path, known) for path in (store / level).glob("moments/[0-9]*.safetensors")]
        for pattern in ("*/c/[0-9]*", "*/*/c/[0-9]*"):
            found += [(path, known - set(hollow)) for path in (store / level).glob(pattern)]
        stray = [
            path for path, kept in found if path.stem.isdecimal() and int(path.stem) not in kept
        ]  # the others are not ours
        for path in stray:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            _remove(path, sum(file.stat().st_size for file in files), result)


def _remove(path: Path, size: int, result: Collected) -> None:
    result.leftovers += 1
    result.bytes += size
    if result.dry_run:
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
