"""The way from media to maps, rebuilt from what a cache declares: the same bits, int8 by the same calibration."""

import numpy as np
import pytest

from d2st.cache.errors import ConfigError
from d2st.pipeline.build.restore import restore_front_end
from d2st.pipeline.build.run import declared_tokens
from d2st.pipeline.clip import Encoder, load_backbone


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_restored_encoder_gives_the_same_bits(dtype, detector, settings):
    crops = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    backbone = load_backbone("d2st-test", "random:0", device="cpu")
    encoder = Encoder(backbone, ["block_0", "block_2"], micro_batch=4, dtype=dtype)
    encoder.calibration = encoder.calibrate(crops[:2])
    config = declared_tokens(encoder, settings, detector)
    found = restore_front_end(config, pretrained="random:0", calibration=encoder.calibration)
    before, after = encoder.encode(crops), found.encoder.encode(crops)
    assert before.arrays.keys() == after.arrays.keys()
    assert all(np.array_equal(values, after.arrays[name]) for name, values in before.arrays.items())
    if dtype == "int8":
        with pytest.raises(ConfigError, match="calibration"):
            restore_front_end(config, pretrained="random:0")


def test_the_image_size_is_restored(detector, settings):
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu", image_size=48), ["block_2"], micro_batch=4)
    config = declared_tokens(encoder, settings, detector)
    assert config["image_size"] == 48
    found = restore_front_end(config, pretrained="random:0").encoder
    assert found.backbone.grid == (6, 6)
    np.testing.assert_array_equal(found.encode(crops).arrays["block_2/maps"], encoder.encode(crops).arrays["block_2/maps"])
