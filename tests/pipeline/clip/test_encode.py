import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2st.cache.codec import decode
from d2st.cache.errors import ConfigError, WeightsError
from d2st.pipeline.clip.backbone import load_backbone
from d2st.pipeline.clip.encode import Encoder
from d2st.pipeline.clip.layers import layer_names, resolve_layers


def make(layers="all", *, name="d2st-test", device="cpu", precision="fp32", **options):
    backbone = load_backbone(name, "random:3", device=device, precision=precision)
    return Encoder(backbone, resolve_layers(layers, backbone.depth), **options)


def same(first, second):
    """Bit for bit; a plain == would call two NaN different and +0 and -0 equal."""
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def assert_same(first, second):
    assert list(first.arrays) == list(second.arrays)
    for name, one in first.arrays.items():
        assert same(one, second.arrays[name]), name


def rows(tokens, index):
    return type(tokens)({name: values[index] for name, values in tokens.arrays.items()}, 0)


def bfloat16(bits):
    """Decode by hand: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(("name", "precision"), [("d2st-test", "fp32"), ("d2st-test", "bf16"), ("d2st-demo", "fp32")])
def test_taps_are_the_outputs_of_the_blocks(name, precision, device):
    """Reference: forward hooks on the blocks of an untouched float32 tower, fed by torch arithmetic of our own."""
    backbone = load_backbone(name, "random:3", device="cpu", precision="fp32")
    size = backbone.image_size
    crops = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    seen = []
    for block in backbone.model.transformer.resblocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.numpy()))
    pixels = torch.tensor(crops).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        backbone.model((pixels - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1))
    tokens = make(name=name, device=device, precision=precision, micro_batch=2).encode(crops)
    assert list(tokens.arrays) == [f"{layer}/{kind}" for layer in layer_names(backbone.depth) for kind in ("maps", "cls")]
    tolerance = {"fp32": 2e-3, "bf16": 3e-2}[precision]
    for layer, reference in zip(layer_names(backbone.depth), seen, strict=True):
        np.testing.assert_allclose(tokens.arrays[f"{layer}/cls"], reference[:, 0], atol=tolerance)
        height, width = backbone.grid
        for row in range(height):  # row-major grid
            patches = reference[:, 1 + row * width : 1 + (row + 1) * width]
            np.testing.assert_allclose(tokens.arrays[f"{layer}/maps"][:, row], patches, atol=tolerance)


def test_the_grid_lies_as_the_picture_does():
    """A patch of the picture that changes moves its own token of the map the most."""
    crops = np.full((2, 32, 32, 3), 90, np.uint8)
    crops[1, 8:16, 24:32] = 250  # row 1, column 3 of the 4x4 grid
    maps = make("0").encode(crops).arrays["block_0/maps"].astype(np.float32)
    change = np.square(maps[1] - maps[0]).sum(axis=-1)
    assert np.unravel_index(change.argmax(), change.shape) == (1, 3)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("bfloat16", np.uint16)])
def test_shapes_and_dtypes(faces, dtype, kind, device):
    tokens = make("0,-1", dtype=dtype, device=device).encode(faces)
    assert {name: (values.shape, values.dtype) for name, values in tokens.arrays.items()} == {
        f"{layer}/{part}": ((21, *shape), kind)
        for layer in ("block_0", "block_2")
        for part, shape in (("maps", (4, 4, 64)), ("cls", (64,)))
    }
    assert all(values.flags.c_contiguous and values.flags.writeable for values in tokens.arrays.values())
    assert tokens.clamped == 0


def test_int8_has_scales_and_the_same_numbers(faces, device):
    """Dequantised, each channel is off by less than a hundredth of its deviation; CLS tokens are those of a float16 set."""
    half, encoder = make("0,-1", device=device).encode(faces), make("0,-1", dtype="int8", device=device)
    encoder.calibration = encoder.calibrate(faces)
    tokens = encoder.encode(faces)
    kinds = {"maps": ((21, 4, 4, 64), np.int8), "scales": ((21, 4, 4), np.float16), "cls": ((21, 64), np.float16)}
    assert {name: (values.shape, values.dtype) for name, values in tokens.arrays.items()} == {
        f"{layer}/{kind}": found for layer in ("block_0", "block_2") for kind, found in kinds.items()
    }
    assert all(values.flags.c_contiguous and values.flags.writeable for values in tokens.arrays.values())
    for layer in ("block_0", "block_2"):
        assert same(tokens.arrays[f"{layer}/cls"], half.arrays[f"{layer}/cls"])
        mean, std = (vector.cpu() for vector in encoder.calibration[layer])
        maps = decode(tokens.arrays[f"{layer}/maps"], tokens.arrays[f"{layer}/scales"], (mean, std))
        off = (maps - torch.from_numpy(half.arrays[f"{layer}/maps"]).float()) / std
        assert off.square().mean().sqrt() < 0.01
    again = make("0,-1", dtype="int8", device=device)
    again.calibration = encoder.calibration
    assert_same(again.encode(faces[3:8]), rows(tokens, slice(3, 8)))


def test_the_calibration_is_that_of_all_patches(faces, device):
    """Against numpy on the float16 maps; the black pictures that fill up the last micro-batch do not count."""
    found = make("0,2", micro_batch=4, device=device).calibrate(faces)
    tokens = make("0,2", micro_batch=4, device=device).encode(faces)
    for layer, (mean, std) in found.items():
        maps = tokens.arrays[f"{layer}/maps"].astype(np.float64).reshape(-1, 64)
        assert mean.dtype == std.dtype == np.float32
        np.testing.assert_allclose(mean, maps.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(std, maps.std(axis=0), rtol=1e-3)
    with pytest.raises(ConfigError, match="no frame"):
        make("0").calibrate(faces[:0])


def test_pictures_without_a_difference_calibrate_too():
    encoder = make("0", dtype="int8")
    with torch.no_grad():
        encoder.backbone.model.positional_embedding.zero_()
    grey = np.full((3, 32, 32, 3), 90, np.uint8)
    encoder.calibration = calibration = encoder.calibrate(grey)
    mean, std = calibration["block_0"]
    assert (std > 0).all()
    arrays = encoder.encode(grey).arrays
    maps = decode(arrays["block_0/maps"], arrays["block_0/scales"], (mean, std))
    np.testing.assert_allclose(maps.numpy(), np.broadcast_to(mean, maps.shape), atol=1e-3)


def test_int8_needs_its_calibration(faces):
    encoder = make("0,2", dtype="int8")
    with pytest.raises(ConfigError, match="calibration"):
        encoder.encode(faces)
    with pytest.raises(ConfigError, match="block_2"):
        encoder.calibration = make("0", dtype="int8").calibrate(faces)


def test_bfloat16_bits_are_the_same_numbers(faces):
    half, brain = make("last").encode(faces), make("last", dtype="bfloat16").encode(faces)
    np.testing.assert_allclose(bfloat16(brain.arrays["block_2/maps"]), half.arrays["block_2/maps"], rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "precision", "count"), [("d2st-test", "fp32", 21), ("d2st-test", "bf16", 21), ("d2st-demo", "fp32", 5)]
)
def test_bits_do_not_depend_on_company(faces, name, precision, count, device):
    """Alone, shuffled, in parts, beside extremes, from a view, encoded anew: a frame's tokens are the same bits."""
    faces, options = faces[:count], {"name": name, "precision": precision, "device": device, "micro_batch": 4}
    encoder = make(**options)
    whole = encoder.encode(faces)
    for index in (0, count - 1):
        assert_same(encoder.encode(faces[index : index + 1]), rows(whole, slice(index, index + 1)))
    order = np.random.default_rng(1).permutation(count)
    assert_same(encoder.encode(faces[order]), rows(whole, order))
    assert_same(encoder.encode(faces[::-2]), rows(whole, slice(None, None, -2)))
    extremes = np.concatenate([np.full((3, 32, 32, 3), 255, np.uint8), faces[:3]])
    assert_same(rows(encoder.encode(extremes), slice(3, 6)), rows(whole, slice(0, 3)))
    assert_same(make(**options).encode(faces), whole)


ENCODER = make("0,2", micro_batch=4)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 20), max_size=13))
def test_bits_depend_on_the_pixels_alone(picks):
    pool = np.random.default_rng(9).integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)
    assert_same(ENCODER.encode(pool[picks]), rows(ENCODER.encode(pool), picks))


def test_no_frames_give_no_rows():
    tokens = make("last").encode(np.zeros((0, 32, 32, 3), np.uint8))
    assert tokens.arrays["block_2/maps"].shape == (0, 4, 4, 64)
    assert tokens.arrays["block_2/cls"].shape == (0, 64)


def test_a_pruned_tower_gives_the_same_maps(faces):
    everything, first = make("all"), make("0")
    assert len(first.backbone.model.transformer.resblocks) == 1
    assert first.backbone.depth == 3
    assert same(first.encode(faces).arrays["block_0/maps"], everything.encode(faces).arrays["block_0/maps"])
    with pytest.raises(ConfigError, match="load the backbone afresh"):
        Encoder(first.backbone, ["block_2"])


def fed_pixels(crops):
    """What reaches the patch embedding for one crop, in grey levels: (32, 32, 3)."""
    encoder, fed = make("0"), []
    encoder.backbone.model.conv1.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0][0]))
    encoder.encode(crops)
    image = fed[0].permute(1, 2, 0)
    return ((image * torch.tensor(encoder.backbone.std) + torch.tensor(encoder.backbone.mean)) * 255).numpy()


@pytest.mark.parametrize("size", [20, 32, 64, 75])
def test_other_sizes_are_resized_as_pillow_does(size):
    """Noise shows aliasing. Pillow rounds to whole levels (and clips, hence mid-grey) after each of its two passes."""
    crops = np.random.default_rng(size).integers(80, 176, (1, size, size, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(crops[0]).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(fed_pixels(crops), pillow, atol=1.5)


def test_resizing_does_not_overshoot():
    """Bicubic rings at a hard edge; a pixel beyond white is not a picture."""
    crops = np.zeros((1, 64, 64, 3), np.uint8)
    crops[:, :, 31:] = 255
    pixels = fed_pixels(crops)
    assert pixels.min() > -0.01
    assert pixels.max() < 255.01


def test_values_beyond_float16_are_clamped_and_counted(faces):
    tokens = []
    for dtype in ("float16", "bfloat16"):
        encoder = make("1,2", dtype=dtype)
        with torch.no_grad():
            encoder.backbone.model.transformer.resblocks[-1].mlp.c_proj.bias[5] = 1e6
            encoder.backbone.model.transformer.resblocks[-1].mlp.c_proj.bias[9] = -1e6
        tokens.append(encoder.encode(faces))
    half, brain = tokens
    assert half.clamped == 2 * 21 * 17  # two channels of every token of the last block, CLS too; none of the padding
    assert (half.arrays["block_2/maps"][..., 5] == 65504).all()
    assert (half.arrays["block_2/cls"][..., 9] == -65504).all()
    assert np.isfinite(half.arrays["block_2/maps"]).all()
    assert brain.clamped == 0
    np.testing.assert_allclose(bfloat16(brain.arrays["block_2/maps"][..., 5]), 1e6, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_never_leave(faces, bad, dtype):
    encoder = make("all", dtype=dtype)
    encoder.calibration = encoder.calibrate(faces)
    with torch.no_grad():
        encoder.backbone.model.transformer.resblocks[0].mlp.c_proj.bias[5] = bad
    for run in (encoder.encode, encoder.calibrate):
        with pytest.raises(WeightsError, match="not finite"):
            run(faces)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 32, 24, 3), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((2, 32, 32, 4), np.uint8),
    ],
)
def test_other_arrays_are_refused(crops):
    with pytest.raises(ConfigError, match=r"uint8 of shape \(N, S, S, 3\)"):
        ENCODER.encode(crops)


def test_read_only_crops_are_left_alone(faces, recwarn):
    locked = faces[:3].copy()
    locked.flags.writeable = False
    ENCODER.encode(locked)
    assert np.array_equal(locked, faces[:3])
    assert not recwarn.list


@pytest.mark.parametrize("layers", [[], ["block_3"], ["block_1", "block_0"], ["block_0", "block_0"], ["last"]])
def test_layers_are_checked(layers):
    with pytest.raises(ConfigError, match="block_0 to block_2"):
        Encoder(load_backbone("d2st-test", "random:3", device="cpu"), layers)


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"micro_batch": 0}])
def test_options_are_checked(options):
    with pytest.raises(ConfigError):
        make("last", **options)


def test_the_declaration_is_json_and_moves_with_what_matters():
    base = make("0").declared()
    assert json.loads(json.dumps(base)) == base
    assert base["weights_digest"] == load_backbone("d2st-test", "random:3", device="cpu").weights_digest
    others = [
        make("0,1"),
        make("0", precision="bf16"),
        make("0", micro_batch=8),
        make("0", dtype="bfloat16"),
        make("0", dtype="int8"),
        make("0", name="d2st-demo"),
    ]
    texts = {json.dumps(declared) for declared in (base, *(other.declared() for other in others))}
    assert len(texts) == 7


def test_the_declarations_of_old_stores_stand():
    """Another key here, and every store that was built before would be taken for a different one."""
    keys = {
        "backbone",
        "weights_digest",
        "image_size",
        "mean",
        "std",
        "resize",
        "precision",
        "micro_batch",
        "layers",
        "tap",
        "dtype",
    }
    for dtype in ("float16", "bfloat16"):
        assert make("0", dtype=dtype).declared().keys() == keys
    assert make("0", dtype="int8").declared().keys() == keys | {"quantisation"}


def test_the_callers_arithmetic_settings_come_back(faces):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        ENCODER.encode(faces[:1])
        assert torch.get_float32_matmul_precision() == "high"
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_float32_matmul_precision(before)
