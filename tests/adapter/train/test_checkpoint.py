"""What a checkpoint carries beside its weights: statistics, and the calibration by which int8 token maps are to be read."""

import numpy as np
import pytest
import torch

from d2st.adapter.nets import adapter_params
from d2st.adapter.train import checkpoint
from d2st.adapter.train.checkpoint import build_detector, load_detector, load_weights, save_checkpoint
from d2st.cache.errors import RunError

META = {
    "adapter": "meanpool_mlp",
    "adapter_params": adapter_params("meanpool_mlp", {}).model_dump(),
    "layers": ["block_1"],
    "channels": 6,
    "grid": [2, 2],
}
STATS = {name: (np.zeros(6, np.float32), np.ones(6, np.float32)) for name in ("block_1", "block_1/cls")}


def test_a_calibration_comes_back_and_disturbs_nothing(tmp_path):
    detector = build_detector(META, STATS)
    rng = np.random.default_rng(0)
    calibration = {f"block_{i}": tuple(rng.normal(size=(2, 6)).astype(np.float32)) for i in (1, 10)}
    save_checkpoint(tmp_path / "with", detector, meta=META, stats=STATS, calibration=calibration)
    save_checkpoint(tmp_path / "without", detector, meta=META, stats=STATS)
    with_it, meta = load_detector(tmp_path / "with")
    without, plain = load_detector(tmp_path / "without")
    assert plain["calibration"] == {}
    assert meta["calibration"].keys() == calibration.keys()
    for layer, pair in calibration.items():
        for found, given in zip(meta["calibration"][layer], pair, strict=True):
            np.testing.assert_array_equal(found.numpy(), given)
    assert {key: meta[key] for key in plain if key != "calibration"} == {k: v for k, v in plain.items() if k != "calibration"}
    for name, value in with_it.state_dict().items():
        assert torch.equal(value, without.state_dict()[name])
    assert "calibration" not in load_weights(build_detector(META, STATS), tmp_path / "with")


@pytest.mark.parametrize("read", [load_detector, lambda path: load_weights(build_detector(META, STATS), path)])
def test_another_format_is_named_before_any_weight_is_looked_at(tmp_path, monkeypatch, read):
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
        save_checkpoint(tmp_path / "old", build_detector(META, STATS), meta=META, stats=STATS)
    with pytest.raises(RunError, match=f"format {checkpoint.FORMAT - 1}, this d2st reads {checkpoint.FORMAT}"):
        read(tmp_path / "old")
