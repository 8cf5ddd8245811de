"""Seals: a file that certifies itself, whatever its format; every flipped bit is found."""

import io
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.errors import StoreError
from d2st.cache.ledger import read_sealed, sealed_parquet
from d2st.cache.seal import PLACEHOLDER, check_seal, is_whole, seal

SEALED = [
    seal(json.dumps({"a": 1, "seal": PLACEHOLDER}).encode()),
    sealed_parquet(pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]}), {"k": "v"}),
]


@given(which=st.integers(0, 1), where=st.integers(0, 10**9))
def test_every_flipped_bit_is_found(which, where):
    data = bytearray(SEALED[which])
    assert is_whole(bytes(data))
    bit = where % (8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    assert not is_whole(bytes(data))


@given(cut=st.integers(0, len(SEALED[1]) - 1))
def test_a_cut_file_is_found(cut):
    assert not is_whole(SEALED[1][:cut])


def test_a_sealed_parquet_file_is_a_parquet_file(tmp_path):
    assert pl.read_parquet(io.BytesIO(SEALED[1]))["a"].to_list() == [1, 2, 3]
    path = tmp_path / "x.parquet"
    path.write_bytes(SEALED[1])
    frame, metadata = read_sealed(path)
    assert metadata["k"] == "v"
    assert frame["b"].to_list() == ["x", None, "z"]


def test_a_file_without_a_seal_is_not_taken_for_a_whole_one(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(StoreError, match="fails its own checksum"):
        read_sealed(path)
    assert read_sealed(path, sealed=False)[0].height == 1
    with pytest.raises(StoreError, match="here is damaged"):
        check_seal(b"nothing", where="here")
    with pytest.raises(ValueError, match="0 times"):
        seal(b"nothing")
