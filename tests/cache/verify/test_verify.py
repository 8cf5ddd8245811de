"""`verify`: whatever is done to whichever file of a store is found, nothing makes it fail, and samples that are hit are named exactly."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.errors import StoreError
from d2st.cache.fingerprint import fingerprint
from d2st.cache.plan import extend_plan
from d2st.cache.seal import seal
from d2st.cache.store import Store
from d2st.cache.verify import KINDS, MENDS, verify

FORMAT1 = Path(__file__).parents[1] / "format1.d2st"
FRAMES = 3  # a sample, as conftest makes them


def files(store: Path) -> list[Path]:
    return [path for path in sorted(store.rglob("*")) if path.is_file()]


def one_of_each(store: Path) -> list[str]:
    """A file of each kind: every small one, and those of shard 1."""
    names = [path.relative_to(store).as_posix() for path in files(store)]
    return [name for name in names if not any(f"/c/{k}" in name or f"/00000{k}." in name for k in (0, 2))]


def test_a_whole_store_has_no_damage(whole_store):
    before = {path: path.stat().st_mtime_ns for path in files(whole_store)}
    seen = []
    for deep in (False, True):
        result = verify(whole_store, deep=deep, on_progress=lambda *step: seen.append(step))
        assert (result.damages, result.notes, result.format) == ([], [], 2)
        assert result.files >= len(before) - 2
    assert result.bytes == sum(path.stat().st_size for path in before if "/c/" in str(path))
    assert seen[-1] == (12, 12)
    assert {path: path.stat().st_mtime_ns for path in files(whole_store)} == before


def test_every_kind_of_file_with_a_flipped_bit_truncated_emptied_lost_or_a_folder(store):
    random = np.random.default_rng(7)
    for name in one_of_each(store):
        path = store / name
        data = path.read_bytes()
        at = int(random.integers(len(data)))
        flipped = data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :]
        for how, content in (("flip", flipped), ("cut", data[: at // 2]), ("empty", b""), ("lost", None), ("folder", ...)):
            path.unlink()
            if content is ...:
                path.mkdir()
            elif content is not None:
                path.write_bytes(content)
            found = verify(store, deep=True).damages
            assert found, (name, how, at)
            assert all(damage.kind in KINDS and damage.mend in MENDS for damage in found)
            if how in ("flip", "cut"):
                assert name in {damage.file for damage in found}, (name, how, at)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(data)
    assert verify(store, deep=True).damages == []


def test_a_damaged_frame_names_its_sample_and_no_other(store):
    for name in one_of_each(store):
        if "/c/1" not in name:
            continue
        path = store / name
        data = bytearray(path.read_bytes())
        chunk = (len(data) - SHARD_FRAMES * 16 - 4) // (2 * FRAMES)
        for position, sample in ((0, "s3"), (2 * chunk + 1, "s3"), (4 * chunk - 1, "s5"), (6 * chunk - 1, "s5")):
            data[position] ^= 4
            path.write_bytes(data)
            assert verify(store, deep=False).damages == []
            (damage,) = verify(store, deep=True).damages
            assert (damage.file, damage.kind, damage.shard, damage.samples) == (name, "checksum", 1, (sample,))
            assert damage.mend == ("crop" if name.startswith("crops") else "encode")
            data[position] ^= 4
        path.write_bytes(data)


def test_the_quick_check_sees_indexes_and_sizes(store):
    path = store / "tokens/block_1/cls/c/1/0"
    data = path.read_bytes()
    for content, kind in ((data[:-1], "truncated"), (data[:-20] + bytes(20), "checksum"), (data + b"x", "truncated")):
        path.write_bytes(content)
        (damage,) = verify(store, deep=False).damages
        assert (damage.kind, damage.samples) == (kind, ("s3", "s5"))


def test_shards_that_changed_places_are_found(store):
    a, b = (store / f"tokens-half/block_0/maps/c/{shard}/0/0/0" for shard in (0, 2))
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
    assert verify(store, deep=False).damages == []
    assert [damage.shard for damage in verify(store, deep=True).damages] == [0, 2]
    parts = [store / f"tokens/ledger/00000{shard}.parquet" for shard in (0, 2)]
    parts[0].write_bytes(parts[1].read_bytes())
    assert (parts[0].relative_to(store).as_posix(), "rows") in {(d.file, d.kind) for d in verify(store, deep=False).damages}


def reseal(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    document["attributes"]["d2st_seal"] = "d2st-crc32c=00000000"
    path.write_bytes(seal(json.dumps(document, indent=2).encode()))


def test_metadata_edited_by_someone_who_knows_the_seal(store):
    def other_config(document):
        declared = document["attributes"]["d2st"]
        declared["config"]["layers"] = ["block_1", "block_0"]
        declared["fingerprint"] = fingerprint(declared["config"])

    def other_shape(document):
        document["shape"][1:3] = [1, 4]
        document["chunk_grid"]["configuration"]["chunk_shape"][1:3] = [1, 4]
        document["codecs"][0]["configuration"]["chunk_shape"][1:3] = [1, 4]

    for name, change, kind in (
        ("tokens/zarr.json", other_config, "fingerprint"),
        ("tokens/block_1/maps/zarr.json", other_shape, "metadata"),
        ("tokens/block_1/scales/zarr.json", lambda d: d.update(data_type="uint16"), "metadata"),
        ("crops/frames/zarr.json", lambda d: d["shape"].__setitem__(0, SHARD_FRAMES), "metadata"),
        ("crops/frames/zarr.json", lambda d: d.update(codecs=[]), "metadata"),
        ("crops/zarr.json", lambda d: d["attributes"].pop("d2st"), "seal"),
    ):
        before = (store / name).read_bytes()
        reseal(store / name, change)
        assert {(d.file, d.kind) for d in verify(store, deep=False).damages} == {(name, kind)}
        (store / name).write_bytes(before)


def test_what_was_made_from_other_things_is_stale(store):
    level = Store.open(store).crops
    rows = level.part(1).rows
    with level.stage(1) as staged:
        staged.writer("frames", frame_dims=3).append(np.zeros((6, 4, 4, 3), np.uint8))
        staged.commit(rows, replace=True)
    found = verify(store, deep=True).damages
    assert [(d.level, d.shard, d.kind, d.mend) for d in found] == [
        (name, 1, "stale", "encode") for name in ("tokens", "tokens+1", "tokens-half")
    ]
    assert found[0].samples == ("s3", "s5")


def test_statistics_of_another_training_split_are_stale(store):
    handle = Store.open(store)
    handle.write_manifest(handle.manifest().with_columns(split=pl.lit("train")))
    found = verify(store, deep=False).damages
    assert {(d.kind, d.mend) for d in found} == {("stale", "moments")}
    assert len(found) == 9


def test_a_lost_last_plan_part_is_known_by_the_samples_it_placed(store):
    (store / "plan" / "00001.parquet").unlink()
    (damage,) = verify(store, deep=False).damages
    assert (damage.file, damage.kind, damage.samples) == ("plan", "plan", ("s6", "s7", "s8"))


def test_leftovers_and_unbuilt_shards_are_notes(store):
    extend_plan(store / "plan", pl.DataFrame({"sample_id": ["t"], "slots": [5]}))
    stage = store / "tokens" / ".staging" / "000003.abcdefabcdef" / "block_0"
    stage.mkdir(parents=True)
    (stage / "x").write_bytes(b"1234")
    (store / "plan" / ".00002.parquet.1234.partial").write_bytes(b"12")
    result = verify(store, deep=True)
    assert result.damages == []
    assert "crops: 1 planned shards are not built yet" in result.notes
    assert any("2 leftovers of unfinished work (6 bytes" in note for note in result.notes)


def test_a_shard_committed_by_a_killed_builder_is_moved_into_place(store):
    level = Store.open(store).crops
    file, part = level.shard_file("frames", 1, frame_dims=3), level.ledger / "000001.parquet"
    staged = level.path / ".staging" / "000001.abcdefabcdef"
    (staged / file.relative_to(level.path)).parent.mkdir(parents=True)
    shutil.move(file, staged / file.relative_to(level.path))
    shutil.copy(part, staged / "part.parquet")
    assert verify(store, deep=True).damages == []
    assert file.exists()


def test_it_never_fails_whatever_is_broken_at_once(store):
    random = np.random.default_rng(3)
    names = files(store)
    for path in random.permutation(np.array(names, object))[: len(names) // 2]:
        content = random.bytes(int(random.integers(0, 300)))
        path.write_bytes(content)
        verify(store, deep=True)
    for path in names:
        path.unlink(missing_ok=True)
        if len(list(store.rglob("*.parquet"))) % 5 == 0 and (store / "crops").exists():
            verify(store, deep=True)


def test_a_store_of_format_1(tmp_path):
    result = verify(FORMAT1, deep=True)
    assert result.damages == []
    assert "store format 1" in result.notes[0]
    for name in (
        "crops/frames/c/0/0/0/0",
        "tokens/moments/000000.safetensors",
        "tokens/block_0/maps/c/0/0/0/0",
        "crops/ledger/000000.parquet",
        "tokens/block_2/cls/zarr.json",
    ):
        shutil.copytree(FORMAT1, tmp_path / "copy")
        data = bytearray((tmp_path / "copy" / name).read_bytes())
        data[len(data) // 3] ^= 1
        (tmp_path / "copy" / name).write_bytes(data if name.endswith("0") or "moments" in name else data[: len(data) // 2])
        assert name in {damage.file for damage in verify(tmp_path / "copy", deep=True).damages}
        shutil.rmtree(tmp_path / "copy")


def test_what_is_no_store_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StoreError, match="no d2st store"):
            verify(path, deep=False)
