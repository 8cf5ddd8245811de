"""The whole check: small files first, then shard by shard on a few threads.

It only ever reads, finds, and goes on. It holds no claims: what it meets while others build is either committed, and whole, or not there.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from d2st.cache.arrays import read_attributes
from d2st.cache.errors import StoreError
from d2st.cache.ledger import read_sealed
from d2st.cache.leftovers import leftovers
from d2st.cache.level import FORMAT, FORMATS_READ
from d2st.cache.plan import plan_parts, read_plan_part
from d2st.cache.staging import roll_forward
from d2st.cache.verify.damage import Damage, Verification
from d2st.cache.verify.level_files import BROKEN, LevelState, inspect_level, level_folders
from d2st.cache.verify.level_shards import Known, ShardReport, check_shard, samples_of

__all__ = ["verify"]

THREADS = 4
OnProgress = Callable[[int, int], None]


def verify(store: Path, *, deep: bool, on_progress: OnProgress = lambda done, total: None) -> Verification:
    """Check a store, of any format that this d2st reads.

    Args:
        deep: read every byte; otherwise shard files are checked by size and index alone.
        on_progress: called with (shards done, shards in all).

    Returns:
        Everything that is wrong; no damage, whatever it is, makes this function raise.

    Raises:
        StoreError: there is no store at `store`.
    """
    begin = perf_counter()
    if not any((store / name).exists() for name in ("zarr.json", "crops", "plan")):
        raise StoreError(f"there is no d2st store at {store}", fix="Name the folder that `d2st cache build` made")
    result = Verification(deep, _format(store))
    planned, unplanned = _check_small_files(store, result), set[str]()
    for name in level_folders(store):
        try:
            roll_forward(store / name)
        except BROKEN as error:
            result.notes.append(f"{name}: files of a committed shard could not be moved into place ({error})")
    every = tuple(sorted({sample for samples in planned.values() for sample in samples}))
    levels = [inspect_level(store, name, result.format, samples=lambda: every) for name in level_folders(store)]
    crops = next((state for state in levels if state.is_crops), None)
    known = Known(planned, _training_split(store, result.format), crops)
    for state in levels:
        result.damages += state.damages
        result.files += 1 + len(state.arrays)
        result.damages += _lost_parts(state, known)
    total = sum(len(state.shards) for state in levels)
    for done, report in enumerate(_check_shards(levels, known, deep=deep)):
        on_progress(done, total)
        result.damages += report.damages
        result.files += report.files
        result.bytes += report.bytes
        unplanned |= set(report.unplanned)
    on_progress(total, total)
    _account_for_plan(result, unplanned)
    _take_notes(store, result, levels, known)
    result.damages.sort(key=lambda damage: (damage.level or "", damage.shard or 0, damage.file))
    result.seconds = perf_counter() - begin
    return result


def _format(store: Path) -> int:
    """The store's format; where its root can't say it, seals in other files do."""
    try:
        version = read_attributes(store)["d2st"]["format"]
        if version in FORMATS_READ:
            return version
    except BROKEN:  # reported with the small files
        pass
    try:
        return FORMAT if b"d2st-crc32c=" in (store / "crops" / "zarr.json").read_bytes() else 1
    except OSError:
        return FORMAT


def _check_small_files(store: Path, result: Verification) -> dict[int, frozenset[str]]:
    """Root, manifest and plan; returns the samples that the plan places in each shard, by all of its parts."""
    sealed = result.format > 1
    try:
        if read_attributes(store, sealed=sealed)["d2st"]["format"] not in FORMATS_READ:
            raise ValueError("an unknown format")
    except BROKEN as error:
        kind = "seal" if (store / "zarr.json").exists() else "missing"
        result.damages.append(Damage("zarr.json", kind, "metadata", str(error)[:300]))
    planned: dict[int, set[str]] = {}
    parts = plan_parts(store / "plan")
    numbers = {int(path.stem) for path in parts if path.stem.isdecimal()}
    for number in sorted(set(range(max(numbers, default=-1) + 1)) - numbers):
        result.damages.append(Damage(f"plan/{number:05d}.parquet", "missing", "plan"))
    for path in parts:
        try:
            for sample, shard, _ in read_plan_part(path, sealed=sealed)[0].iter_rows():
                planned.setdefault(shard, set()).add(sample)
        except BROKEN as error:
            result.damages.append(Damage(f"plan/{path.name}", "seal", "plan", str(error)[:300]))
    every = tuple(sorted({sample for samples in planned.values() for sample in samples}))
    try:
        read_sealed(store / "manifest.parquet", sealed=sealed)
    except BROKEN as error:
        kind = "seal" if (store / "manifest.parquet").exists() else "missing"
        if kind == "seal" or parts:
            result.damages.append(Damage("manifest.parquet", kind, "manifest", str(error)[:300], samples=every))
    result.files += 2 + len(parts)
    return {shard: frozenset(samples) for shard, samples in planned.items()}


def _training_split(store: Path, version: int) -> frozenset[str] | None:
    try:
        manifest, _ = read_sealed(store / "manifest.parquet", sealed=version > 1)
        return frozenset(manifest.filter(split="train")["sample_id"])
    except Exception:  # reported with the small files; a manifest of another shape can't be asked
        return None


def _lost_parts(state: LevelState, known: Known) -> Iterator[Damage]:
    """Shards that have files, or token maps made of them, but no ledger part."""
    there = {
        int(folder.name) for array in state.arrays for folder in (state.path / array / "c").glob("*") if folder.name.isdecimal()
    }
    if state.is_crops:
        for folder in level_folders(state.store)[1:]:
            there |= {int(path.stem) for path in (state.store / folder / "ledger").glob("*.parquet") if path.stem.isdecimal()}
    mend = "crop" if state.is_crops else "encode"
    for shard in sorted(there - state.shards):
        if (state.path / "ledger" / f"{shard:06d}.parquet").exists():  # committed while we looked
            continue
        detail = "what belongs to the shard is there, its ledger part is not"
        samples = samples_of(state, shard, known)
        yield Damage(f"{state.name}/ledger/{shard:06d}.parquet", "missing", mend, detail, state.name, shard, samples)


def _check_shards(levels: list[LevelState], known: Known, *, deep: bool) -> Iterator[ShardReport]:
    """Reports in order; a few shards are under way at once."""
    threads = min(THREADS, os.cpu_count() or 1)
    waiting: deque[Future[ShardReport]] = deque()
    with ThreadPoolExecutor(threads, "d2st-verify") as pool:
        try:
            for state in levels:
                for shard in sorted(state.shards):
                    waiting.append(pool.submit(check_shard, state, shard, known, deep=deep))
                    if len(waiting) > 2 * threads:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()


def _account_for_plan(result: Verification, unplanned: set[str]) -> None:
    """Samples that no part of the plan has: of its damaged parts, or of a last one that is gone."""
    if not unplanned:
        return
    damaged = [damage for damage in result.damages if damage.mend == "plan"]
    for damage in damaged:
        result.damages.remove(damage)
        result.damages.append(Damage(damage.file, damage.kind, "plan", damage.detail, samples=tuple(sorted(unplanned))))
    if not damaged:
        detail = f"{len(unplanned)} samples of the ledger are in none of its parts"
        result.damages.append(Damage("plan", "plan", "plan", detail, samples=tuple(sorted(unplanned))))


def _take_notes(store: Path, result: Verification, levels: list[LevelState], known: Known) -> None:
    if result.format == 1:
        result.notes.append(
            "store format 1: ledger parts, plan, manifest and metadata carry no checksum of their own, so damage that leaves them "
            "readable can't be found; nor two shard files that changed places"
        )
    for state in levels:
        missing = set(known.planned) - state.shards
        if missing:
            result.notes.append(f"{state.name}: {len(missing)} planned shards are not built yet")
    try:
        found = leftovers(store)
    except OSError as error:  # a builder at work has just moved them
        found = []
        result.notes.append(f"leftovers could not be counted: {error.strerror}")
    if found:
        size = sum(leftover.bytes for leftover in found)
        result.notes.append(
            f"{len(found)} leftovers of unfinished work ({size} bytes; `d2st cache gc` removes those of dead builders): "
            + ", ".join(leftover.name for leftover in found[:3])
        )
