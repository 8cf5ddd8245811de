"""Channel statistics follow the training split: what is computed anew is what a whole pass over the counted frames gives."""

import numpy as np
import polars as pl
import pytest
import torch

from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.codec import decode
from d2st.cache.ledger import LEDGER_SCHEMA, rows_among
from d2st.cache.moments import moments_name, read_moments
from d2st.cache.statistics import refresh_all_statistics, refresh_statistics, statistics_bytes

FRAMES = SHARD_FRAMES + 20


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_statistics_are_those_of_the_counted_samples_alone(token_store, tmp_path, dtype):
    made = token_store(tmp_path / "s.d2st", dtype, FRAMES)
    assert refresh_all_statistics(made.store, {"s1", "elsewhere"}) == 2
    level = made.store.token_levels("main")[0]
    assert read_moments(level.path / moments_name(0))[0] == {}
    found, _ = read_moments(level.path / moments_name(1))
    for layer in level.config["layers"]:
        arrays = {name.partition("/")[2]: values[SHARD_FRAMES:] for name, values in made.arrays.items() if layer in name}
        pair = made.calibration.get(layer)
        maps = decode(arrays["maps"], arrays.get("scales"), pair and tuple(map(torch.from_numpy, pair)))
        expected = maps.float().numpy().reshape(-1, 4).astype(np.float64)
        assert found[layer].count == 20 * 6
        np.testing.assert_allclose(found[layer].mean, expected.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[layer].std, expected.std(0), rtol=1e-5)
        assert found[f"{layer}/cls"].count == 20


def test_a_shard_is_computed_anew_only_when_its_samples_changed_sides(token_store, tmp_path):
    level = token_store(tmp_path / "s.d2st", "float16", FRAMES).store.token_levels("main")[0]
    files = [level.path / moments_name(shard) for shard in (0, 1)]
    assert [refresh_statistics(level, {"s0"}), refresh_statistics(level, {"s0"})] == [2, 0]
    before = [path.read_bytes() for path in files]
    assert refresh_statistics(level, {"s0", "s1"}) == 1
    assert files[0].read_bytes() == before[0]
    assert files[1].read_bytes() != before[1]
    files[1].write_bytes(files[1].read_bytes()[:-1])
    assert refresh_statistics(level, {"s0"}) == 1
    assert [path.read_bytes() for path in files] == before


def test_statistics_of_no_samples_need_no_calibration(token_store, tmp_path):
    level = token_store(tmp_path / "s.d2st", "int8", 8).store.token_levels("main")[0]
    (level.path / "calibration.safetensors").unlink()
    rows = level.part(0).rows
    (tmp_path / "none").write_bytes(statistics_bytes(level, rows.clear()))
    assert read_moments(tmp_path / "none")[0] == {}


def test_rows_among_keeps_the_order_and_takes_empty_parts():
    rows = pl.DataFrame({"sample_id": ["c", "a", "b"]})
    assert rows_among(rows, {"b", "c", "x"})["sample_id"].to_list() == ["c", "b"]
    assert rows_among(rows, set()).is_empty()
    assert rows_among(LEDGER_SCHEMA.to_frame(), {"a"}).schema == LEDGER_SCHEMA
