"""Several builders, faults in any stage, and machines of another size: the bytes are always those of one undisturbed build."""

import _thread
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from d2st.cache import Store
from d2st.cache.claims import Claims
from d2st.cache.errors import ConfigError, RunError, StoreError
from d2st.cache.level import StagedShard
from d2st.cache.shard import ShardWriter
from d2st.pipeline.build import run as run_module
from d2st.pipeline.build import stages, work
from d2st.pipeline.build.run import build
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import build_detector


def tree(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def _children() -> set[str]:
    return set().union(*(path.read_text().split() for path in Path("/proc/self/task").glob("*/children")))


@pytest.fixture
def leftovers(threads_left):
    """A function -> the program's threads, and the children of this process, that are there now and were not before."""
    before = _children()
    return lambda: threads_left() + sorted(_children() - before)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, shrink_shards):
    shrink_shards(monkeypatch)
    monkeypatch.setattr(work, "POLL_S", 0.05)


@pytest.fixture
def run(media, detector, encoder, settings):
    root, manifest = media

    def run_build(store, *, rows=manifest, encoder=encoder, detector=detector, workers=1, **more):
        return build(rows, store, root=root, detector=detector, settings=settings, encoder=encoder, workers=workers, **more)

    return run_build


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, media, detector, encoder, settings, shrink_shards):
    store = tmp_path_factory.mktemp("unbroken") / "s"
    with pytest.MonkeyPatch.context() as patch:
        shrink_shards(patch)
        build(media[1], store, root=media[0], detector=detector, settings=settings, encoder=encoder, workers=1)
    return tree(store)


def test_other_numbers_of_processes_and_threads_give_the_same_bytes(tmp_path, run, decoding_processes, unbroken, monkeypatch):
    monkeypatch.setattr(run_module, "crop_threads", lambda device: 3)
    run(tmp_path / "s", workers=3)
    assert tree(tmp_path / "s") == unbroken


def test_builders_at_once_share_the_shards(tmp_path, run, unbroken):
    store, reports, errors = tmp_path / "s", [], []

    def one(encoder):
        try:
            reports.append(run(store, encoder=encoder))
        except BaseException as error:
            errors.append(error)

    encoders = [
        Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ("block_0", "block_2"), micro_batch=8) for _ in range(3)
    ]
    builders = [threading.Thread(target=one, args=[encoder]) for encoder in encoders]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert errors == []
    assert tree(store) == unbroken
    shards = reports[0].planned_shards
    assert sum(report.built_crops for report in reports) == sum(report.built_tokens for report in reports) == shards
    assert all((report.shards, report.samples) == (shards, 12) for report in reports), "each waits for the whole store"


def test_a_static_split_makes_its_part_and_waits_for_nobody(tmp_path, run, unbroken):
    first = run(tmp_path / "s", part=(2, 3))
    assert 0 < first.built_tokens == first.shards < first.planned_shards
    assert {shard % 3 for shard in Store.open(tmp_path / "s").crops.committed()} == {1}
    run(tmp_path / "s", part=(1, 3))
    assert run(tmp_path / "s", part=(3, 3)).shards == first.planned_shards
    assert tree(tmp_path / "s") == unbroken
    with pytest.raises(ConfigError):
        run(tmp_path / "s", part=(4, 3))


@pytest.mark.parametrize("level", ["crops", "tokens"])
def test_a_shard_that_somebody_else_commits_first_stays_theirs(tmp_path, run, unbroken, monkeypatch, level):
    """As after a sleep in which another builder took the claim over: same rows, same bytes, theirs was first."""
    commit = StagedShard.commit
    lost = []

    def beaten(self, rows, **more):
        if self.level.name == level and self.staging.shard == 1 and not lost:
            lost.append(True)
            names = ("frames",) if level == "crops" else ("block_0/maps", "block_0/cls", "block_2/maps", "block_2/cls")
            with self.level.stage(1) as theirs:
                for name in names:
                    copied = theirs.writer(name, frame_dims=1 if name.endswith("cls") else 3)
                    copied.append(frames_of(self, name))
                for path in self.staging.path.glob("moments/*"):
                    theirs.write(f"moments/{path.name}", path.read_bytes())
                assert commit(theirs, rows, **more)
        return commit(self, rows, **more)

    kept: dict[Path, list[np.ndarray]] = {}
    append = ShardWriter.append

    def keep(self, frames):
        kept.setdefault(self.path, []).append(frames)
        append(self, frames)

    def frames_of(staged, name):
        return next(np.concatenate(kept[path]) for path in kept if path.is_relative_to(staged.staging.path / name))

    monkeypatch.setattr(ShardWriter, "append", keep)
    monkeypatch.setattr(StagedShard, "commit", beaten)
    report = run(tmp_path / "s")
    assert lost
    made = report.built_crops if level == "crops" else report.built_tokens
    assert made == report.planned_shards - 1
    assert tree(tmp_path / "s") == unbroken


class Broken:
    """A detector that fails at its third call."""

    name, digest, calls = "none", "", 0

    def detect(self, images):
        self.calls += 1
        if self.calls > 3:
            raise ValueError("the detector broke")
        return build_detector("none").detect(images)


def test_a_fault_in_any_stage_surfaces_as_itself_and_leaves_nothing_running(
    tmp_path, run, unbroken, monkeypatch, leftovers, decoding_processes
):
    store = tmp_path / "s"
    with pytest.raises(ValueError, match="the detector broke"):
        run(store, detector=Broken())
    assert leftovers() == []

    def refuse(self, crops):
        raise RuntimeError("out of memory on the GPU")

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", refuse)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(store)
    assert leftovers() == []
    with monkeypatch.context() as patch:
        patch.setattr("d2st.pipeline.media.supervise.BOOT", "import sys; sys.exit(3)")
        with pytest.raises(RunError):
            run(store)
    assert leftovers() == []
    append, written = ShardWriter.append, []

    def full(self, frames):
        written.append(len(frames))
        if len(written) > 12:
            raise StoreError("no space left to write it")
        append(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", full)
        with pytest.raises(StoreError, match="no space left"):
            run(store)
    assert leftovers() == []
    assert not list(store.glob("*/.staging/*")), "half-written shards are removed"
    run(store)
    assert tree(store) == unbroken


def test_ctrl_c_stops_it_and_the_next_build_goes_on(tmp_path, run, unbroken, leftovers, decoding_processes):
    def press(phase, done, total):
        if phase == "tokens" and done > 7:
            _thread.interrupt_main()
            time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", on_progress=press)
    assert leftovers() == []
    assert not list((tmp_path / "s").glob("*/.staging/*"))
    run(tmp_path / "s")
    assert tree(tmp_path / "s") == unbroken


def test_a_build_does_not_start_beside_a_gc(tmp_path, run):
    run(tmp_path / "s")
    with Claims(tmp_path / "s" / "claims", purpose="gc") as claims, claims.alone(), pytest.raises(StoreError, match="in use"):
        run(tmp_path / "s")


def test_progress_reaches_its_totals_and_what_the_stages_took_is_reported(tmp_path, run, decoding_processes):
    calls = []
    report = run(tmp_path / "s", on_progress=lambda *call: calls.append(call))
    last = {phase: (done, total) for phase, done, total in calls}
    assert last == {"crops": (12, 12), "tokens": (28, 28)}
    assert [done for phase, done, _ in calls if phase == "crops"] == list(range(13))
    assert [use.stage for use in report.stages] == ["decode", "crop", "encode", "write"]
    assert all(0 <= use.busy <= 1 and use.alone_per_s > 0 for use in report.stages)
    assert report.advice
    assert run(tmp_path / "s").stages == []


def test_no_more_is_under_way_than_the_pipes_may_hold(tmp_path, run, monkeypatch):
    """A slow encoder must not let crops pile up."""
    monkeypatch.setattr(stages, "CROPS_WAITING", 8)
    encode, cropped, behind = Encoder.encode, [], []

    def slow(self, crops):
        time.sleep(0.05)
        behind.append(len(cropped))
        return encode(self, crops)

    monkeypatch.setattr(Encoder, "encode", slow)
    run(tmp_path / "s", on_progress=lambda phase, done, total: cropped.append(done) if phase == "crops" else None)
    assert behind[0] < 12
