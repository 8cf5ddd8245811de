"""The store against a plain dict: whatever is done to it in whatever order, and wherever the process dies on the way, every sample that can
be read has the bytes that were put in, nothing committed is lost, `verify` names what is hit, and no row that is still wanted moves.

The producer is a toy: the content of a sample is a hash of its id, and shards hold 4 frames. Everything else is the real cache. More by
hand, other examples every time: D2ST_EXAMPLES=500 pytest tests/cache/test_state_machine.py
"""

import builtins
import hashlib
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from d2st.cache import presence
from d2st.cache.arrays import ensure_array
from d2st.cache.codec import calibration_bytes, decode, stored_arrays
from d2st.cache.errors import StoreError
from d2st.cache.files import create_exclusive, write_atomic
from d2st.cache.gc import collect
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level, open_level
from d2st.cache.mend import known_rows, mend_file, mend_metadata, mend_plan
from d2st.cache.moments import add_frames, counted_digest, moments_bytes, moments_name, read_moments
from d2st.cache.plan import extend_plan
from d2st.cache.reader import ArrayReader
from d2st.cache.staging import discard_staged, staged_shards
from d2st.cache.store import CALIBRATION, Store
from d2st.cache.verify import verify
from d2st.cache.verify.level_files import BROKEN, inspect_level, level_folders
from d2st.cache.verify.level_shards import slots_of

FRAMES_A_SHARD = 4
LAYER, GRID, CHANNELS = "block_0", (2, 2), 4
ARRAYS = {f"{LAYER}/{kind}": layout for kind, layout in stored_arrays("int8", GRID, CHANNELS).items()}
CROPS = {"frames": ((4, 4, 3), "uint8")}
CALIBRATED = {LAYER: (np.linspace(-1, 1, CHANNELS, dtype=np.float32), np.linspace(0.5, 2, CHANNELS, dtype=np.float32))}
SAMPLES = [f"s{i}" for i in range(12)]
KINDS = (
    "frames/c/",
    "maps/c/",
    "scales/c/",
    "cls/c/",
    "crops/ledger",
    "tokens/ledger",
    "moments",
    "zarr.json",
    "plan/",
    ".parquet",
    CALIBRATION,
)
KILL = st.one_of(st.none(), st.integers(0, 12), st.integers(12, 150))  # at which file operation


# The producer: pure functions of the sample.


def frames_of(sample: str) -> int:
    return 1 + int(hashlib.blake2b(sample.encode()).hexdigest(), 16) % 3


def in_training(sample: str) -> bool:
    return int(sample[1:]) % 3 != 0


def content(sample: str, array: str) -> np.ndarray:
    """(frames, ...) of a sample; the bytes are a hash, but for floats, which are finite."""
    shape, dtype = (CROPS | ARRAYS)[array]
    shape = (frames_of(sample), *shape)
    stream = hashlib.shake_128(f"{sample} {array}".encode()).digest(int(np.prod(shape)))
    values = np.frombuffer(stream, np.uint8).reshape(shape)
    return (values / np.float16(64) + np.float16(0.25)).astype(np.float16) if dtype == "float16" else values.view(dtype)


class Stopped(BaseException):
    """As if the process had died: nothing of ours catches it, and from then on no file can be touched any more."""


@contextmanager
def dies_at(step: int | None):
    """Let the process "die" at the file operation with this number (None: never); yields a list that is empty if it did not."""
    names = ("replace", "link", "rename", "unlink", "mkdir", "rmdir", "fsync")
    real, opened = {name: getattr(os, name) for name in names}, io.open
    counter, died, began = itertools.count(), [], []

    def count():
        if died or (step is not None and next(counter) >= step):
            died.append(step)
            raise Stopped

    def counted(name):
        def call(*args, **more):
            count()
            return None if name == "fsync" else real[name](*args, **more)

        return call

    def open_counted(file, mode="r", *args, **more):
        if set(mode) & set("wxa"):
            count()
        return opened(file, mode, *args, **more)

    def appear(self):
        began.append(self)
        return appears(self)

    appears = presence.Presence.appear
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, counted(name))
        patch.setattr(builtins, "open", open_counted)
        patch.setattr(io, "open", open_counted)
        patch.setattr(presence.Presence, "appear", appear)
        with suppress(Stopped):
            yield died
    for one in began if died else ():  # the dead do not beat, and others on the machine see it
        one._stop.set()
        shutil.rmtree(one.folder, ignore_errors=True)


class ToyBuild:
    """What `pipeline.build` does, without media and CLIP."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, samples: set[str], there: set[str], *, shards: int | None = None, retry: bool = False) -> None:
        """Build the first so many missing shards, or all; samples that are not `there` are rejected."""
        store = Store.ensure(self.path)
        crops = ensure_level(self.path, "crops", {"size": 4})
        tokens = ensure_level(self.path, "tokens", {"layers": [LAYER], "dtype": "int8", "weights_digest": "toy"})
        ids = sorted(samples)
        splits = ["train" if in_training(sample) else "test" for sample in ids]
        store.write_manifest(
            pl.DataFrame({"sample_id": ids, "split": splits}, schema={"sample_id": pl.String, "split": pl.String})
        )
        rejected = store.current(crops).filter(pl.col("reason").is_not_null()).select("sample_id", "shard")
        again = {sample: shard for sample, shard in rejected.rows() if retry and sample in there}
        slots = pl.DataFrame(
            {"sample_id": ids, "slots": [frames_of(s) for s in ids]}, schema={"sample_id": pl.String, "slots": pl.Int32}
        )
        plan = extend_plan(self.path / "plan", slots, again=again)
        if plan.is_empty():
            return
        if not (tokens.path / CALIBRATION).exists():
            create_exclusive(tokens.path / CALIBRATION, calibration_bytes(CALIBRATED))
        last = int(plan["shard"].max()) + 1
        for level, layout in ((crops, CROPS), (tokens, ARRAYS)):
            for name, (shape, dtype) in layout.items():
                ensure_array(level.array(name), frame_shape=shape, dtype=dtype, shards=last, attributes={})
        missing = [shard for shard in sorted(set(plan["shard"])) if not {shard} <= crops.committed() & tokens.committed()]
        for shard in missing[:shards]:
            if shard not in crops.committed():
                self.crops(shard, plan.filter(pl.col("shard") == shard)["sample_id"], there & samples)
            if shard not in tokens.committed():
                self.tokens(shard)
        for shard in sorted(tokens.committed()):
            self.moments(shard)

    def crops(self, shard: int, samples, there: set[str], known: pl.DataFrame | None = None, *, replace: bool = False) -> None:
        level = self._cleared("crops", shard)
        rows, following = [], shard * FRAMES_A_SHARD
        places = {} if known is None else {row["sample_id"]: row for row in known.to_dicts()}
        for sample in samples:
            if sample in places:
                rows.append(places[sample])
                continue
            cached = sample in there
            count = frames_of(sample) if cached else 0
            found = (None, "", "{}") if cached else ("missing", "", "{}")
            rows.append(
                dict(zip(LEDGER_SCHEMA, (sample, following if cached else None, count, frames_of(sample), *found), strict=True))
            )
            following += count
        table = pl.DataFrame(rows, schema=LEDGER_SCHEMA)
        with level.stage(shard) as staged:
            self._write(staged, shard, table, CROPS)
            staged.commit(table, replace=replace)

    def tokens(self, shard: int) -> None:
        level, part = self._cleared("tokens", shard), open_level(self.path, "crops").part(shard)
        rows = part.rows.filter(pl.col("reason").is_null()).sort("start").select(LEDGER_SCHEMA.names())
        with level.stage(shard) as staged:
            self._write(staged, shard, rows, ARRAYS)
            staged.write(moments_name(shard), self._moments(rows))
            staged.commit(rows, source=part.content)

    def moments(self, shard: int) -> None:
        """Statistics again if they are missing, damaged or of other samples."""
        level = open_level(self.path, "tokens")
        rows = level.part(shard).rows
        path, wanted = level.path / moments_name(shard), counted_digest(filter(self._counts, rows["sample_id"]))
        with suppress(StoreError):
            if read_moments(path)[1] == wanted:
                return
        write_atomic(path, self._moments(rows))

    def _counts(self, sample: str) -> bool:
        return in_training(sample) and sample in set(Store.open(self.path).manifest()["sample_id"])

    def _moments(self, rows: pl.DataFrame) -> bytes:
        counted = [sample for sample in rows.sort("start")["sample_id"] if self._counts(sample)]
        moments = {}
        for sample in counted:
            maps, scales, cls = (content(sample, f"{LAYER}/{kind}") for kind in ("maps", "scales", "cls"))
            for name, values in ((LAYER, decode(maps.copy(), scales, CALIBRATED[LAYER]).numpy()), (f"{LAYER}/cls", cls)):
                moments[name] = add_frames(moments.get(name), values)
        return moments_bytes(dict(sorted(moments.items())), counted=counted_digest(counted))

    def _cleared(self, name: str, shard: int):
        level = open_level(self.path, name)
        for number, folder in staged_shards(level.path):
            if number == shard:
                discard_staged(level.path, shard, folder)
        return level

    @staticmethod
    def _write(staged, shard: int, rows: pl.DataFrame, layout) -> None:
        for name, (shape, _) in layout.items() if rows["frames"].sum() else ():
            writer, used = staged.writer(name, frame_dims=len(shape)), 0
            for sample, start in rows.filter(pl.col("reason").is_null()).sort("start").select("sample_id", "start").iter_rows():
                writer.skip(start - shard * FRAMES_A_SHARD - used)
                writer.append(content(sample, name))
                used = start - shard * FRAMES_A_SHARD + frames_of(sample)

    def repair(self, samples: set[str]) -> None:
        """Mend what `verify` finds, as `pipeline.build.repair` does."""
        by_mend: dict[str, list] = {}
        for damage in verify(self.path, deep=True).damages:
            by_mend.setdefault(damage.mend, []).append(damage)
        if files := {damage.file for damage in by_mend.get("metadata", ())}:
            states = {name: inspect_level(self.path, name, 2, samples=tuple) for name in level_folders(self.path)}
            assert mend_metadata(self.path, files, states) == {}
        if "manifest" in by_mend:
            ids = sorted(samples)
            splits = ["train" if in_training(sample) else "test" for sample in ids]
            Store.open(self.path).write_manifest(pl.DataFrame({"sample_id": ids, "split": splits}))
        if "plan" in by_mend:
            mend_plan(self.path)
        if "calibration" in by_mend:
            write_atomic(self.path / "tokens" / CALIBRATION, calibration_bytes(CALIBRATED))
        lost = {
            mend: sorted({d.shard for d in by_mend.get(mend, ()) if not self._whole_again(d)}) for mend in ("crop", "encode")
        }
        plan = Store.open(self.path).plan()
        for shard in lost["crop"]:
            known, complete = known_rows(self.path, shard)
            order = known["sample_id"] if complete else plan.filter(pl.col("shard") == shard)["sample_id"]
            there = set(known.filter(pl.col("reason").is_null())["sample_id"]) if known is not None else samples
            self.crops(shard, order, there, known, replace=True)
        crops, tokens = open_level(self.path, "crops"), open_level(self.path, "tokens")
        left = tokens.committed() - set(lost["encode"])
        stale = [shard for shard in left if tokens.part(shard).source != crops.part(shard).content]
        for shard in [*lost["encode"], *stale]:
            tokens.withdraw(shard)
            self.tokens(shard)
        for shard in sorted(tokens.committed()):
            self.moments(shard)

    def _whole_again(self, damage) -> bool:
        if damage.kind == "missing" or "/ledger/" in damage.file:
            return False
        try:
            part = open_level(self.path, damage.level).part(damage.shard)
            name = damage.file.removeprefix(f"{damage.level}/")
            return mend_file(self.path / damage.file, part.files[name], list(slots_of(part.rows, damage.shard)))
        except BROKEN:
            return False


class StoreMachine(RuleBasedStateMachine):
    """The rules; `cached` is the dict: where each sample that is known to be cached starts. Its bytes are `content`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "s.d2st"
        self.toy = ToyBuild(self.path)
        self.manifest: set[str] = set()
        self.built: set[str] = set()  # the manifest of the last build
        self.there = set(SAMPLES)
        self.cached: dict[str, int] = {}
        self.rejected: set[str] = set()
        self.hit: dict[str, set[str] | None] = {}  # damaged files, and the samples that they hit, where it is known exactly
        self.unsettled = False  # a repair or gc was stopped: what it withdrew is missing until the next one
        self.behind = False  # a build was stopped: statistics may be those of the manifest before

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(samples=st.sets(st.sampled_from(SAMPLES), min_size=5), gone=st.sets(st.sampled_from(SAMPLES), max_size=4))
    def first_build(self, samples, gone):
        self.manifest, self.there = set(samples), set(SAMPLES) - gone
        self.build(None, None, False)

    @rule(samples=st.sets(st.sampled_from(SAMPLES), min_size=1, max_size=4))
    def add(self, samples):
        self.manifest |= samples

    @rule(samples=st.sets(st.sampled_from(SAMPLES), min_size=1, max_size=3))
    def remove(self, samples):
        if samples < self.manifest:
            self.manifest -= samples

    @rule(sample=st.sampled_from(SAMPLES))
    def media_come_and_go(self, sample):
        self.there ^= {sample}

    @precondition(lambda self: not self.hit)
    @rule(shards=st.one_of(st.none(), st.integers(1, 2)), die=KILL, retry=st.booleans())
    def build(self, shards, die, retry):
        before = dict(self.cached)
        with dies_at(die) as died:
            self.toy.run(self.manifest, self.there, shards=shards, retry=retry)
        if not (self.path / "manifest.parquet").exists():
            return
        self.built = set(Store.open(self.path).manifest()["sample_id"])
        self.behind = bool(died)
        if died or shards is not None or self.unsettled:
            self.look(before)
            return
        decided = self.cached.keys() | self.rejected
        wanted = {s for s in self.manifest if s in self.cached or (s in self.there and (s not in decided or retry))}
        self.look(before)
        assert set(self.cached) & self.manifest == wanted

    @precondition(lambda self: not self.hit)
    @rule(die=KILL)
    def gc(self, die):
        if not self.built:
            return
        before = {sample: start for sample, start in self.cached.items() if sample in self.built}
        with dies_at(die) as died:
            collect(self.path)
        self.unsettled = bool(died)
        self.look(before)
        if not died:
            assert set(self.cached) <= self.built
            assert not list(self.path.rglob("*.partial"))
            assert not list(self.path.glob("*/.staging/*"))

    @precondition(lambda self: not self.unsettled and len(self.hit) < 2 and self.built)
    @rule(
        kind=st.sampled_from(KINDS),
        choice=st.integers(0, 9),
        how=st.sampled_from(["flip", "cut", "lose"]),
        at=st.integers(0, 10**4),
    )
    def corrupt(self, kind, choice, how, at):
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file() and self._is_live(path)]
        files = [path for path in files if kind in path.relative_to(self.path).as_posix()]
        if not files:
            return
        path = files[choice % len(files)]
        data = path.read_bytes()
        at %= len(data)
        name = path.relative_to(self.path).as_posix()
        if name in self.hit:
            return
        self.hit[name] = self._samples_hit(name, data, at if how == "flip" else None)
        if how == "lose":
            path.unlink()
        else:
            path.write_bytes(data[:at] if how == "cut" else data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])

    def _is_live(self, path: Path) -> bool:
        """Whether a file is part of the store: not of a shard that is not committed, nor left by the dead."""
        name = path.relative_to(self.path)
        if any(part.startswith(".") for part in name.parts) or name.parts[0] == "claims":
            return False
        number = re.search(r"/c/(\d+)/|/moments/(\d+)", name.as_posix())
        return not number or (self.path / name.parts[0] / "ledger" / f"{int(number[1] or number[2]):06d}.parquet").exists()

    def _samples_hit(self, name: str, data: bytes, flipped: int | None) -> set[str] | None:
        if self.hit:
            return None  # what it takes to say it may be damaged already
        level = open_level(self.path, name.split("/")[0]) if "/" in name and not name.startswith("plan") else None
        if "/c/" in name:
            parts = name.split("/c/")[1].split("/")
            rows = level.part(int(parts[0])).rows.filter(pl.col("reason").is_null()).sort("start")
            owners = [s for s, frames in rows.select("sample_id", "frames").iter_rows() for _ in range(frames)]
            chunk = (len(data) - FRAMES_A_SHARD * 16 - 4) // len(owners)
            return {owners[flipped // chunk]} if flipped is not None and flipped < chunk * len(owners) else set(owners)
        if "/ledger/" in name or "/moments/" in name:
            return set(level.part(int(Path(name).stem)).rows["sample_id"])
        return None

    @rule()
    def verify(self):
        result = verify(self.path, deep=True)
        found = {damage.file for damage in result.damages if not (self.behind and damage.kind == "stale")}
        if self.unsettled:
            return
        # the last part of a plan is known by the samples that have no place without it; a shard whose ledger part is lost is made anew
        hidden = {name for name in self.hit if name.startswith("plan/") and not (self.path / name).exists()}
        hidden |= {name for name in self.hit if ("/c/" in name or "/moments/" in name) and self._ledger_of(name) in self.hit}
        assert found - {"plan"} <= self.hit.keys(), (result.damages, self.hit)
        assert self.hit.keys() - hidden <= found, (result.damages, self.hit)
        if len(self.hit) == 1 and not self.behind and None not in self.hit.values():
            (expected,) = self.hit.values()
            assert set(result.samples) - self.rejected == expected - self.rejected, (result.damages, self.hit)

    @staticmethod
    def _ledger_of(name: str) -> str:
        shard = name.split("/c/")[1].split("/")[0] if "/c/" in name else Path(name).stem
        return f"{name.split('/')[0]}/ledger/{int(shard):06d}.parquet"

    @rule(die=KILL)
    def repair(self, die):
        before = dict(self.cached)
        torn = any("/ledger/" in name for name in self.hit)
        with dies_at(die) as died:
            self.toy.repair(self.built)
        if died:
            self.unsettled = self.unsettled or bool(self.hit)
            return
        self.hit.clear()
        self.unsettled = False
        assert verify(self.path, deep=True).damages == []
        self.look({} if torn else before)
        if torn:
            assert before.keys() <= self.cached.keys()

    @rule()
    def reopen(self):
        if not self.hit and self.built:
            Store.open(self.path).tokens.stats  # noqa: B018, a look

    @invariant()
    def what_is_read_is_what_was_put_in(self):
        """Also of a damaged store: what can't be trusted can't be read."""
        for level, layout in (("crops", CROPS), ("tokens", ARRAYS)) if self.cached else ():
            for name in layout:
                try:
                    with ArrayReader(self.path / level / name) as reader:
                        self._read_all(reader, name)
                except StoreError:
                    assert self.hit or self.unsettled, name

    def _read_all(self, reader, name):
        for sample, start in self.cached.items():
            values = np.empty((frames_of(sample), *reader.frame_shape), reader.dtype)
            try:
                reader.read(np.arange(start, start + frames_of(sample)), values)
            except StoreError:
                assert self.hit or self.unsettled, (sample, name)
                continue
            assert values.tobytes() == content(sample, name).tobytes(), (sample, name)

    def look(self, before: dict[str, int]) -> None:
        """Take over what the store says is cached; nothing of `before` may be lost or have moved."""
        store = Store.open(self.path)
        crops, tokens = store.current(store.crops), store.current(open_level(self.path, "tokens"))
        self.rejected = set(crops.filter(pl.col("reason").is_not_null())["sample_id"])
        self.cached = dict(tokens.select("sample_id", "start").rows())
        if not self.unsettled:
            assert self.cached.items() >= before.items()
            assert self.cached.keys() <= set(crops.filter(pl.col("reason").is_null())["sample_id"])


def test_the_store_is_a_dict(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("d2st.") and hasattr(module, "SHARD_FRAMES"):
            monkeypatch.setattr(module, "SHARD_FRAMES", FRAMES_A_SHARD)
    steps = settings(
        max_examples=int(os.environ.get("D2ST_EXAMPLES", "20")),
        stateful_step_count=30,
        deadline=None,
        derandomize="D2ST_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(StoreMachine, settings=steps)
