"""Repair: look for damage, mend what can be mended, leave the rest of the store byte for byte as it is.

In this order, because each step needs the one before: metadata and plan from the ledger; shard files whose frames are all whole; crops from
the media; token maps from the crops; statistics from the token maps. Same media give the same crops, and token maps of the same crops
stay. A repair that is stopped leaves a store in which shards may be missing: the next repair, or build, makes them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import polars as pl

from d2st.cache.claims import Claims
from d2st.cache.errors import D2stError
from d2st.cache.level import FORMAT, Level, open_level, require_writable
from d2st.cache.mend import mend_file, mend_metadata, mend_plan
from d2st.cache.statistics import refresh_statistics
from d2st.cache.store import Store
from d2st.cache.verify import Damage, verify
from d2st.cache.verify.level_files import BROKEN, inspect_level, level_folders
from d2st.cache.verify.level_shards import slots_of
from d2st.pipeline.build.recrop import mend_crops
from d2st.pipeline.build.remake import Sources, encode_again
from d2st.pipeline.build.rows import Rows
from d2st.pipeline.build.work import stale_tokens

__all__ = ["RepairReport", "repair"]

NO_MANIFEST = "its manifest is needed: run d2st cache build MANIFEST first"


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes:
        found: damages before.
        mended: files that are whole again.
        left: what is damaged still, and why.
        crops, tokens, statistics: shards of crops and of token maps, and statistics of shards, that were made anew.
        seconds: wall time.
    """

    found: int
    mended: list[str]
    left: list[tuple[Damage, str]]
    crops: int
    tokens: int
    statistics: int
    seconds: float


def repair(
    store_path: Path,
    *,
    sources: Sources,
    deep: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> RepairReport:
    """Verify a store and mend what is damaged.

    Args:
        sources: where media and weights are.
        deep: read every byte to find damage.
        on_progress: called with (phase, done, total); phase "verify" and "crops" count shards, "tokens" counts frames.

    Raises:
        StoreError: there is no store, it is of an older format, or somebody else is at work on it.
    """
    begin = perf_counter()
    found = verify(store_path, deep=deep, on_progress=lambda done, total: on_progress("verify", done, total))
    if not found.damages:
        return RepairReport(0, [], [], 0, 0, 0, perf_counter() - begin)
    if found.format != FORMAT:
        require_writable(store_path)
    with Claims(store_path / "claims", purpose="repair") as claims, claims.alone():
        job = _Repair(store_path, found.damages, sources, claims, on_progress)
        job.run()
        after = verify(store_path, deep=False)
    left = [(damage, job.why[damage.file]) for damage in found.damages if damage.file in job.why]
    known = {damage.file for damage, _ in left}
    left += [(damage, job.why.get(damage.file, "")) for damage in after.damages if damage.file not in known]
    known = {damage.file for damage, _ in left}
    mended = sorted({damage.file for damage in found.damages} - known)
    return RepairReport(
        len(found.damages), mended, left, job.crops_made, job.tokens_made, job.statistics, perf_counter() - begin
    )


class _Repair:
    """One repair; `why` says for each file that stays damaged why it does."""

    def __init__(
        self,
        store: Path,
        damages: Iterable[Damage],
        sources: Sources,
        claims: Claims,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        self.path, self.sources, self.claims, self.on_progress = store, sources, claims, on_progress
        self.by_mend: dict[str, list[Damage]] = defaultdict(list)
        for damage in damages:
            self.by_mend[damage.mend].append(damage)
        self.why: dict[str, str] = {}
        self.crops_made = self.tokens_made = self.statistics = 0

    def run(self) -> None:
        """Every step; what goes wrong in one is kept in `why`."""
        for damage in self.by_mend["manifest"]:
            self.why[damage.file] = NO_MANIFEST
        if files := {damage.file for damage in self.by_mend["metadata"]}:
            states = {name: inspect_level(self.path, name, FORMAT, samples=tuple) for name in level_folders(self.path)}
            self.why |= mend_metadata(self.path, files, states)
        if self.by_mend["plan"]:
            self._try(self.by_mend["plan"], lambda: mend_plan(self.path))
        for mend in ("crop", "encode"):
            self.by_mend[mend] = [damage for damage in self.by_mend[mend] if not self._whole_again(damage)]
        work = ("crop", "encode", "moments", "calibration")
        if not any(self.by_mend[mend] for mend in work):
            return
        try:
            manifest, plan = Store.open(self.path).manifest(), Store.open(self.path).plan()
        except D2stError as error:
            why = NO_MANIFEST if self.by_mend["manifest"] else str(error)
            self.why |= {damage.file: why for mend in work for damage in self.by_mend[mend]}
            return
        self.counted = set(manifest.filter(pl.col("split") == "train")["sample_id"])
        self.plan = plan
        if self.by_mend["crop"]:
            self._try(self.by_mend["crop"], lambda: self._mend_crops(Rows(plan, manifest)))
        for name in level_folders(self.path)[1:]:
            mine = [damage for mend in work for damage in self.by_mend[mend] if damage.level == name]
            self._try(mine, lambda name=name: self._mend_tokens(open_level(self.path, name)))

    def _try(self, damages: Iterable[Damage], step: Callable[[], None]) -> None:
        try:
            step()
        except D2stError as error:
            self.why |= {damage.file: str(error) for damage in damages if damage.file not in self.why}

    def _whole_again(self, damage: Damage) -> bool:
        """Whether the damage is to a file whose frames are all whole, and which could be written again."""
        name = Path(damage.file)
        if damage.kind == "missing" or "ledger" in name.parts or damage.shard is None:
            return False
        try:
            part = open_level(self.path, damage.level or "").part(damage.shard)
            digest = part.files[name.relative_to(damage.level or "").as_posix()]
            return mend_file(self.path / name, digest, list(slots_of(part.rows, damage.shard)))
        except BROKEN:  # then it takes more than that
            return False

    def _mend_crops(self, rows: Rows) -> None:
        level = open_level(self.path, "crops")
        shards: dict[int, set[str]] = {}
        for damage in self.by_mend["crop"]:
            distrusted = damage.samples if damage.kind in ("swapped", "fingerprint") else ()
            shards.setdefault(damage.shard or 0, set()).update(distrusted)
        self.on_progress("crops", 0, len(shards))
        media = self.sources.media(level) if self.sources.root is not None else None
        asked = {shard: frozenset(samples) for shard, samples in sorted(shards.items())}
        for done, (shard, why) in enumerate(mend_crops(level, asked, rows, media)):
            self.on_progress("crops", done + 1, len(shards))
            if why:
                self.why |= {damage.file: why for damage in self.by_mend["crop"] if damage.shard == shard}
            self.crops_made += not why

    def _mend_tokens(self, level: Level) -> None:
        crops = open_level(self.path, "crops")
        lost = {damage.shard for damage in self.by_mend["crop"] if damage.file in self.why}
        damaged = [damage for damage in self.by_mend["encode"] if damage.level == level.name]
        for damage in damaged:
            if damage.shard in lost:
                self.why[damage.file] = "the crops of this shard are damaged too"
        shards = {damage.shard for damage in damaged if damage.shard is not None}
        shards |= stale_tokens(crops, level, without=shards | lost)  # neither of their ledger parts may be readable
        recalibrate = any(damage.level == level.name for damage in self.by_mend["calibration"])
        if shards - lost or recalibrate:
            self.tokens_made += encode_again(
                crops,
                level,
                (shards - lost) & crops.committed(),
                sources=self.sources,
                planned=sorted(set(self.plan["shard"])),
                recalibrate=recalibrate,
                counted=self.counted,
                claims=self.claims,
                on_progress=self.on_progress,
            )
        if any(damage.level == level.name for damage in self.by_mend["moments"]):
            self.statistics += refresh_statistics(level, self.counted)
