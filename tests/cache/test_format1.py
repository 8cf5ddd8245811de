"""A store that d2st 0.1 wrote in November 2026 (format 1: no seals, one token set) stays readable, value for value."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2st.cache.errors import StoreError
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store

HERE = Path(__file__).parent


@pytest.fixture
def expected():
    return json.loads((HERE / "format1.json").read_text())


def test_samples_values_and_statistics_are_what_they_were(expected):
    store = Store.open(HERE / "format1.d2st")
    samples = store.samples()
    assert store.tokens.fingerprint == expected["fingerprint"]
    assert store.tokens.dtype == "float16"
    assert set(samples["sample_id"]) == expected["samples"].keys()
    for row in samples.iter_rows(named=True):
        sample = expected["samples"][row["sample_id"]]
        assert (row["start"], row["frames_cached"], row["label"], row["split"]) == tuple(
            sample[key] for key in ("start", "frames", "label", "split")
        )
        for name, digest in sample["digests"].items():
            reader = ArrayReader(store.tokens.array(*name.rsplit("/", 1)))
            values = np.empty((row["frames_cached"], *reader.frame_shape), reader.dtype)
            reader.read(np.arange(row["start"], row["start"] + row["frames_cached"]), values)
            assert hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest() == digest
    stats = {name: (float(mean.mean()), float(std.mean())) for name, (mean, std) in store.tokens.stats.items()}
    assert stats.keys() == expected["stats"].keys()
    for name, values in stats.items():
        assert values == pytest.approx(tuple(expected["stats"][name]), rel=1e-6)


def test_its_parts_say_what_they_say_elsewhere_too(tmp_path):
    shutil.copytree(HERE / "format1.d2st", tmp_path / "moved")
    store = Store.open(tmp_path / "moved")
    part = store.tokens.levels[0].part(0)
    assert set(part.files) == {
        f"{layer}/{kind}/c/0/0{dims}" for layer in store.tokens.layers for kind, dims in (("maps", "/0/0"), ("cls", ""))
    }
    for name, digest in part.files.items():
        assert (store.tokens.levels[0].path / name).stat().st_size == digest.size_bytes
    assert store.rejected().is_empty()


def test_it_is_not_mixed_with_the_new_format(tmp_path):
    shutil.copytree(HERE / "format1.d2st", tmp_path / "s")
    with pytest.raises(StoreError, match="built by an older d2st"):
        Store.ensure(tmp_path / "s")
