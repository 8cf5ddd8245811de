"""The reader: exactly the frames asked for, whatever their size and place; damage and replaced files are noticed."""

import os
import resource
import threading
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache import open_shards
from d2st.cache.arrays import SHARD_FRAMES, ensure_array, shard_path
from d2st.cache.checksum import crc32c
from d2st.cache.errors import StoreError
from d2st.cache.reader import SMALL_FRAME_BYTES, ArrayReader
from d2st.cache.shard import ShardWriter

SMALL, LARGE = (3, 2, 5), (8, 10, 128)
assert np.prod(SMALL) * 2 <= SMALL_FRAME_BYTES < np.prod(LARGE) * 2


def frames(count, shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float16)


def write(path, shard, data, *, gaps=()):
    """A shard of `data`; slots in `gaps` stay empty."""
    writer = ShardWriter(path, slots=SHARD_FRAMES)
    for slot, frame in enumerate(data):
        if slot in gaps:
            writer.skip(1)
        else:
            writer.append(frame[None])
    writer.close()


def make(folder, shape, *shards, gaps=()):
    ensure_array(folder, frame_shape=shape, dtype="float16", shards=max(1, len(shards)), attributes={})
    for number, data in enumerate(shards):
        write(shard_path(folder, number, frame_dims=len(shape)), number, data, gaps=gaps)
    return folder


def read(array, rows, shape):
    out = np.full((len(rows), *shape), 7, np.float16)
    with ArrayReader(array) as reader:
        reader.read(rows, out)
    return out


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """shape -> (array of two shards, of which each third slot of a part is empty; its frames; its rows)."""
    gaps = set(range(20, 80, 3))
    made = {}
    for shape in (SMALL, LARGE):
        data = frames(SHARD_FRAMES + 90, shape)
        folder = tmp_path_factory.mktemp("array") / "a"
        make(folder, shape, data[:SHARD_FRAMES], data[SHARD_FRAMES:], gaps=gaps)
        made[shape] = (folder, data, [row for row in range(len(data)) if row % SHARD_FRAMES not in gaps])
    return made


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rows_in_any_order(arrays, shape, data):
    array, values, there = arrays[shape]
    starts = data.draw(st.lists(st.sampled_from(there), max_size=12))
    rows = [row for start in starts for row in range(start, start + data.draw(st.integers(1, 30))) if row in set(there)]
    np.testing.assert_array_equal(read(array, rows, shape), values[rows])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_an_empty_slot_between_others_is_an_error(arrays, shape):
    array, *_ = arrays[shape]
    for rows in ([20], [18, 19, 20, 21], [SHARD_FRAMES + 23], [SHARD_FRAMES + 95]):
        with pytest.raises(StoreError, match="was never written"):
            read(array, rows, shape)
    with pytest.raises(ValueError, match="negative"):
        read(array, [-1], shape)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_each_flipped_bit_is_noticed_and_its_row_named(tmp_path, shape):
    array = make(tmp_path / "a", shape, frames(12, shape))
    path = shard_path(array, 0, frame_dims=3)
    good, size = path.read_bytes(), int(np.prod(shape)) * 2 + 4
    generator = np.random.default_rng(1)
    for position in generator.choice(12 * size, size=100, replace=False):
        bad = bytearray(good)
        bad[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(bad)
        with pytest.raises(StoreError, match=rf"row {position // size} in .* fails its checksum"):
            read(array, np.arange(12), shape)


def test_two_swapped_halves_of_a_run_are_noticed(tmp_path):
    """The one checksum of a run of small frames must not be fooled by sound checksums in the wrong places."""
    array = make(tmp_path / "a", SMALL, frames(12, SMALL))
    path = shard_path(array, 0, frame_dims=3)
    data, size = bytearray(path.read_bytes()), int(np.prod(SMALL)) * 2 + 4
    data[0:8], data[size : size + 8] = data[size : size + 8], data[0:8]
    path.write_bytes(data)
    with pytest.raises(StoreError, match="row 0 in"):
        read(array, np.arange(12), SMALL)


def test_a_run_of_sound_frames_has_the_checksum_of_any_other():
    """What `ArrayReader` relies on for small frames."""
    generator = np.random.default_rng(0)
    for size in (1, 8, 392, 1536):
        runs = [[generator.bytes(size) for _ in range(5)] for _ in range(3)]
        sums = {crc32c(b"".join(frame + crc32c(frame).to_bytes(4, "little") for frame in run)) for run in runs}
        assert len(sums) == 1


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_replaced_shard_gives_old_or_new_frames(tmp_path, shape):
    old, new = frames(40, shape, 1), frames(40, shape, 2)
    array = make(tmp_path / "a", shape, old)
    path = shard_path(array, 0, frame_dims=3)
    stop, seen, wrong = threading.Event(), set(), []

    def reading():
        reader, out = ArrayReader(array), np.empty((40, *shape), np.float16)
        while not stop.is_set():
            try:
                reader.read(np.arange(40), out)
            except StoreError as error:
                wrong.append(error)
            versions = [v for v, data in enumerate((old, new)) if np.array_equal(out, data)]
            seen.update(versions or ["a mixture"])
            if len(seen) == 1:
                reader.close()  # opens it again

    thread = threading.Thread(target=reading)
    thread.start()
    for data in (new, old, new, old, new) * 4:
        write(path.with_name("next"), 0, data)
        os.replace(path.with_name("next"), path)
    stop.set()
    thread.join()
    assert not wrong
    assert seen <= {0, 1}


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_repaired_shard_is_read_without_a_new_reader(tmp_path, shape):
    data = frames(12, shape)
    array = make(tmp_path / "a", shape, data)
    path = shard_path(array, 0, frame_dims=3)
    bad = bytearray(path.read_bytes())
    bad[5] ^= 1
    path.write_bytes(bad)
    out = np.empty((12, *shape), np.float16)
    reader = ArrayReader(array)
    with pytest.raises(StoreError, match="row 0"):
        reader.read(np.arange(12), out)
    write(path.with_name("next"), 0, data)
    os.replace(path.with_name("next"), path)
    reader.read(np.arange(12), out)
    np.testing.assert_array_equal(out, data)


def test_reads_that_are_cut_short_go_on(tmp_path, monkeypatch):
    data = frames(12, LARGE)
    array = make(tmp_path / "a", LARGE, data)
    real = os.preadv

    def short(descriptor, buffers, offset):
        whole = bytearray(min(10_001, sum(map(len, buffers))))
        count = real(descriptor, [whole], offset)
        for buffer in buffers:
            part = min(count, len(buffer))
            buffer[:part] = whole[:part]
            del whole[:part]
            count -= part
        return min(10_001, sum(map(len, buffers)))

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(read(array, np.arange(12), LARGE), data)


def test_many_shards_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(open_shards, "OPEN_FILES", 3)
    data = frames(9, SMALL)
    reader = ArrayReader(make(tmp_path / "a", SMALL, *data[:, None]))
    out = np.empty((1, *SMALL), np.float16)
    for shard in [*range(9), 0, 4]:
        reader.read([shard * SHARD_FRAMES], out)
        np.testing.assert_array_equal(out[0], data[shard])
        assert len(reader._shards) <= 3
    reader.close()
    assert len(reader._shards) == 0


def test_readers_share_the_files_that_a_process_may_open(arrays, tmp_path):
    """12 arrays (4 layers of int8) of 128 files each once ran into the usual `ulimit -n` of 1,024, in the middle of an epoch."""
    array = make(tmp_path / "a", SMALL, *frames(30, SMALL)[:, None])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, out = len(os.listdir("/dev/fd")), np.empty((1, *SMALL), np.float16)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 80, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        readers = [stack.enter_context(ArrayReader(array)) for _ in range(12)]
        for shard in range(30):
            for reader in readers:
                reader.read([shard * SHARD_FRAMES], out)
        assert sum(len(reader._shards) for reader in readers) <= (before + 80) // 2


def test_wrong_outputs_are_refused(arrays):
    with ArrayReader(arrays[SMALL][0]) as reader:
        for out in (
            np.empty((3, *SMALL), np.float16),
            np.empty((2, *SMALL), np.float32),
            np.empty((4, *SMALL), np.float16)[::2],
        ):
            with pytest.raises(ValueError, match="out must be"):
                reader.read([0, 1], out)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_frame_is_verified_once_a_file_and_again_when_the_file_is_another(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(open_shards, "OPEN_FILES", 1)  # so that the file is closed and opened again in between
    array = make(tmp_path / "a", shape, frames(6, shape), frames(6, shape, seed=1))
    path = shard_path(array, 0, frame_dims=3)
    out = np.empty((6, *shape), np.float16)
    checked = []
    monkeypatch.setattr("d2st.cache.reader.crc32c", lambda data: checked.append(1) or crc32c(data))
    with ArrayReader(array) as reader:
        reader.read(range(3), out[:3])
        count = len(checked)
        assert count
        reader.read(range(3), out[:3])
        reader.read([SHARD_FRAMES], out[:1])
        checked.clear()
        reader.read(range(3), out[:3])
        assert not checked  # the same file, opened anew
        reader.read(range(6), out)
        assert checked  # frames 3 to 5 had not been read yet
        bad = bytearray(path.read_bytes())
        bad[1] ^= 8
        path.unlink()
        path.write_bytes(bad)
        reader.read([SHARD_FRAMES], out[:1])
        with pytest.raises(StoreError, match=r"row 0 .* fails its checksum"):
            reader.read(range(3), out[:3])
