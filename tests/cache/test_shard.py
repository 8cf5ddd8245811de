"""Shards: what we write, Zarr reads; what we read, Zarr may have written; damage is noticed."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from d2st.cache.arrays import SHARD_FRAMES, ensure_array, shard_path
from d2st.cache.checksum import crc32c, crc64
from d2st.cache.errors import StoreError
from d2st.cache.reader import ArrayReader
from d2st.cache.shard import ShardWriter

SHAPE = (3, 2, 5)


@pytest.fixture
def array(tmp_path):
    path = tmp_path / "array"
    ensure_array(path, frame_shape=SHAPE, dtype="float16", shards=3, attributes={})
    return path


def frames(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float16)


def write(array, shard, data):
    writer = ShardWriter(shard_path(array, shard, frame_dims=3), slots=SHARD_FRAMES)
    for part in np.array_split(data, 3):
        writer.append(part)
    return writer.close()


def test_crc32c_matches_the_check_value_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283


def test_crc64_matches_the_check_value_of_its_specification():
    assert crc64(b"123456789") == 0xAE8B14860A799888
    assert crc64(b"6789", crc64(b"12345")) == crc64(b"123456789")


def test_zarr_reads_what_we_write(array):
    data = frames(SHARD_FRAMES + 7)
    write(array, 0, data[:SHARD_FRAMES])
    write(array, 1, data[SHARD_FRAMES:])
    opened = zarr.open_array(array, mode="r")
    assert opened.shape == (3 * SHARD_FRAMES, *SHAPE)
    np.testing.assert_array_equal(opened[: len(data)], data)


def test_we_read_what_zarr_writes(tmp_path):
    data = frames(2 * SHARD_FRAMES)
    made = zarr.create_array(
        tmp_path / "z",
        shape=data.shape,
        dtype="float16",
        chunks=(1, *SHAPE),
        shards=(SHARD_FRAMES, *SHAPE),
        compressors=[Crc32cCodec()],
        filters=None,
    )
    made[:] = data
    rows = [5, 6, 7, 383, 384, 385, 0, 767]
    out = np.empty((len(rows), *SHAPE), np.float16)
    ArrayReader(tmp_path / "z").read(rows, out)
    np.testing.assert_array_equal(out, data[rows])


def test_digest_describes_the_file(array):
    digest = write(array, 0, frames(9))
    data = shard_path(array, 0, frame_dims=3).read_bytes()
    assert digest.size_bytes == len(data)
    assert digest.checksum == crc64(data)


def test_the_digest_tells_data_apart(tmp_path):
    """A whole-file CRC-32C would not: data followed by its own CRC-32C always has the same one."""
    digests = set()
    for value in range(5):
        writer = ShardWriter(tmp_path / str(value), slots=4)
        writer.append(np.full((2, 8), value, np.uint8))
        digests.add(writer.close())
    assert len(digests) == 5


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 2 * SHARD_FRAMES - 1), max_size=40))
def test_any_rows_in_any_order(tmp_path_factory, rows):
    data = frames(2 * SHARD_FRAMES)
    array = tmp_path_factory.getbasetemp() / "shared-array"
    if not array.exists():
        ensure_array(array, frame_shape=SHAPE, dtype="float16", shards=2, attributes={})
        write(array, 0, data[:SHARD_FRAMES])
        write(array, 1, data[SHARD_FRAMES:])
    out = np.empty((len(rows), *SHAPE), np.float16)
    ArrayReader(array).read(rows, out)
    np.testing.assert_array_equal(out, data[rows])


def test_a_row_that_was_never_written_is_an_error_not_zeros(array):
    write(array, 0, frames(9))
    with pytest.raises(StoreError, match="row 9 was never written"):
        ArrayReader(array).read([8, 9], np.empty((2, *SHAPE), np.float16))
    with pytest.raises(StoreError, match="is missing"):
        ArrayReader(array).read([SHARD_FRAMES], np.empty((1, *SHAPE), np.float16))


def test_every_flipped_bit_of_data_or_index_is_noticed(array):
    write(array, 0, frames(4))
    path = shard_path(array, 0, frame_dims=3)
    good = path.read_bytes()
    generator = np.random.default_rng(1)
    for position in generator.choice(len(good), size=60, replace=False):
        bad = bytearray(good)
        bad[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(bad)
        with pytest.raises(StoreError):
            ArrayReader(array).read([0, 1, 2, 3], np.empty((4, *SHAPE), np.float16))


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_is_noticed(array, keep):
    write(array, 0, frames(4))
    path = shard_path(array, 0, frame_dims=3)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError):
        ArrayReader(array).read([0], np.empty((1, *SHAPE), np.float16))


def test_a_full_shard_refuses_more(tmp_path):
    writer = ShardWriter(tmp_path / "s", slots=4)
    with pytest.raises(StoreError, match="holds 4 frames"):
        writer.append(frames(5))
    writer.abandon()


def test_an_array_grows_and_keeps_its_kind(array):
    ensure_array(array, frame_shape=SHAPE, dtype="float16", shards=5, attributes={})
    assert zarr.open_array(array, mode="r").shape[0] == 5 * SHARD_FRAMES
    with pytest.raises(StoreError, match="uint8"):
        ensure_array(array, frame_shape=SHAPE, dtype="uint8", shards=5, attributes={})
