"""Views: token sets of mirrored and brighter crops, which can be made again to the byte and mixed with the main set."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from d2st.cache import Store
from d2st.cache.errors import ConfigError, FingerprintError, WeightsError
from d2st.cache.gc import collect
from d2st.cache.reader import ArrayReader
from d2st.cache.verify import verify
from d2st.cache.views import check_mixable, open_views
from d2st.pipeline.build.encoders import view_encoder
from d2st.pipeline.build.reencode import add_layers, encode_set
from d2st.pipeline.build.remake import Sources
from d2st.pipeline.build.repair import repair
from d2st.pipeline.build.restore import restore_front_end
from d2st.pipeline.build.run import build
from d2st.pipeline.build.views import View, parse_view, view_of
from d2st.pipeline.clip import Encoder, load_backbone

BOTH = View(flip=True, brightness=0.2, name="both")


pytestmark = pytest.mark.usefixtures("small_shards")


def make_encoder(dtype: str = "float16", layers: tuple[str, ...] = ("block_0", "block_2"), **more) -> Encoder:
    return Encoder(load_backbone("d2st-test", "random:0", device="cpu", **more), layers, micro_batch=8, dtype=dtype)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, media, detector, settings, small_shards):
    """A store with the main set and the view `both`, int8."""
    path = tmp_path_factory.mktemp("whole") / "s.d2st"
    root, manifest = media
    build(manifest, path, root=root, detector=detector, settings=settings, encoder=make_encoder("int8"), workers=1)
    encode_set(path, "both", view_encoder(path, "both", layers=None, pretrained=None, device="cpu"), view=BOTH)
    return path


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s.d2st")
    return tmp_path / "s.d2st"


def tree(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def read(array: Path, rows) -> np.ndarray:
    with ArrayReader(array) as reader:
        values = np.empty((len(rows), *reader.frame_shape), reader.dtype)
        reader.read(rows, values)
    return values


@given(
    npst.arrays(np.uint8, npst.array_shapes(min_dims=1, max_dims=1, max_side=6).map(lambda n: (*n, 4, 4, 3))),
    st.floats(0.01, 0.99),
    st.booleans(),
    st.text(max_size=3),
)
def test_pixels_are_those_of_the_formula(crops, ratio, flip, name):
    view, samples = View(flip, ratio, name), [f"s{k // 2}" for k in range(len(crops))]
    found = view.apply(crops, samples)
    assert found.dtype == np.uint8
    for k, sample in enumerate(samples):
        factor = view.factor(sample)
        assert 1 - ratio <= factor <= 1 + ratio
        seen = crops[k, :, ::-1] if flip else crops[k]
        np.testing.assert_array_equal(found[k], np.clip(np.round(seen * factor), 0, 255))
    assert view_of({"view": view.declared()}) == view


def test_factors_are_uniform_and_depend_on_sample_and_name():
    factors = np.array([View(brightness=0.2, name="a").factor(f"{k}") for k in range(4000)])
    assert (factors.min(), factors.max()) == pytest.approx((0.8, 1.2), abs=0.002)
    np.testing.assert_allclose(np.quantile(factors, [0.25, 0.5, 0.75]), [0.9, 1, 1.1], atol=0.012)
    others = np.array([View(brightness=0.2, name="b").factor(f"{k}") for k in range(4000)])
    assert abs(np.corrcoef(factors, others)[0, 1]) < 0.05
    assert View(brightness=0.2, name="bright").factor("demo/0001") == 1.0482235473071955  # stored pixels depend on it


def test_options_describe_a_view():
    assert parse_view([], name="x") is None
    assert parse_view(["flip"], name="x") == View(flip=True)
    assert parse_view(["brightness=0.2", "flip"], name="x") == View(flip=True, brightness=0.2, name="x")
    assert view_of({"layers": []}) is None
    for bad in (
        ["mirror"],
        ["brightness"],
        ["brightness=0"],
        ["brightness=1"],
        ["brightness=nan"],
        ["flip", "flip"],
        ["flip=1"],
    ):
        with pytest.raises(ConfigError, match="--view"):
            parse_view(bad, name="x")
    with pytest.raises(ConfigError, match="not known"):
        view_of({"view": {"flip": True, "hue": 3}})


def test_a_view_is_what_the_encoder_makes_of_the_crops_seen_so(whole):
    main, view = (Store.open(whole, tokens=name) for name in ("main", "both"))
    assert view.tokens.config["view"] == {"flip": True, "brightness": 0.2, "name": "both"}
    assert "view" not in main.tokens.config
    assert view.samples().equals(main.samples())
    check_mixable(main, open_views(main, ["main", "both"]), layers=main.tokens.layers)
    encoder = make_encoder(main.tokens.dtype)
    encoder.calibration = main.tokens.calibration
    for sample, start, count in main.samples().select("sample_id", "start", "frames_cached").rows():
        rows = np.arange(start, start + count)
        crops = read(main.crops.array("frames"), rows)
        seen = encoder.encode(BOTH.apply(crops, [sample] * count)).arrays
        for name, values in seen.items():
            np.testing.assert_array_equal(read(view.tokens.array(*name.split("/")), rows), values)
        assert not np.array_equal(seen["block_2/maps"], encoder.encode(crops).arrays["block_2/maps"])
    mirrored = View(flip=True).apply(crops, [sample] * count)
    maps = [make_encoder().encode(images).arrays["block_0/maps"] for images in (crops, mirrored)]
    assert not np.allclose(maps[1], maps[0][:, :, ::-1], atol=0.05)  # why a view has to be encoded


DAMAGES = {
    "shard": lambda s: (s / "tokens-both/block_2/maps/c/1/0/0/0").unlink(),
    "all of a shard": lambda s: (shutil.rmtree(s / "tokens-both/block_0"), (s / "tokens-both/ledger/000001.parquet").unlink()),
    "metadata": lambda s: (s / "tokens-both/zarr.json").unlink(),
    "calibrations": lambda s: [path.unlink() for path in s.glob("tokens*/calibration.safetensors")],
    "calibration": lambda s: [path.unlink() for path in s.glob("tokens-both/calibration.safetensors")],
    "crops": lambda s: shutil.rmtree(s / "crops/frames/c/1"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_view_is_repaired_to_the_byte(store, media, how):
    before = tree(store)
    DAMAGES[how](store)
    report = repair(store, sources=Sources(root=media[0], workers=1))
    assert not report.left
    assert tree(store) == before
    assert not verify(store, deep=True).damages


def test_a_view_goes_on_where_it_was(store):
    before = tree(store)
    again = view_encoder(store, "both", layers=None, pretrained=None, device="cpu")
    assert encode_set(store, "both", again, view=BOTH).built_tokens == 0
    Store.open(store, tokens="both").token_levels("both")[0].withdraw(1)
    assert encode_set(store, "both", again, view=BOTH).built_tokens == 1
    assert tree(store) == before
    for other in (None, View(flip=True), View(flip=True, brightness=0.3, name="both"), View(True, 0.2, "other")):
        with pytest.raises(FingerprintError, match="view"):
            encode_set(store, "both", again, view=other)


def test_added_layers_are_of_the_same_view(store, media, detector, settings, tmp_path):
    for name in ("main", "both"):
        add_layers(store, "1", tokens=name, device="cpu")
    opened = Store.open(store)
    check_mixable(opened, open_views(opened, ["main", "both"]), layers=("block_0", "block_1", "block_2"))
    # a view that is made now has them all, and the same values
    encode_set(store, "late", view_encoder(store, "late", layers=None, pretrained=None, device="cpu"), view=BOTH)
    early, late = (Store.open(store, tokens=name).tokens for name in ("both", "late"))
    assert late.layers == early.layers == ("block_0", "block_1", "block_2")
    rows = np.arange(int(opened.samples()["frames_cached"].first()))
    for layer in late.layers:
        np.testing.assert_array_equal(read(early.array(layer, "maps"), rows), read(late.array(layer, "maps"), rows))


def test_gc_keeps_views_whole(store):
    opened = Store.open(store)
    kept = opened.manifest()["sample_id"].to_list()[::2]
    collect(store, wanted=kept)
    found = [Store.open(store, tokens=name).samples() for name in ("main", "both")]
    assert found[0].equals(found[1])
    assert not verify(store, deep=True).damages


def test_other_choices_than_the_main_sets(store):
    main = Store.open(store).tokens.config
    encoder = view_encoder(
        store, "v", layers="last", pretrained=None, device="cpu", micro_batch=4, dtype="bfloat16", image_size=64
    )
    assert (encoder.layers, encoder.micro_batch, encoder.dtype, encoder.backbone.grid) == (("block_2",), 4, "bfloat16", (8, 8))
    assert encoder.backbone.weights_digest == main["weights_digest"]
    with pytest.raises(WeightsError, match="not those of"):
        view_encoder(store, "v", layers=None, pretrained="random:1", device="cpu")


def test_files_are_not_scored_by_what_was_trained_on_a_view_alone(whole):
    with pytest.raises(ConfigError, match="trained on a view"):
        restore_front_end(Store.open(whole, tokens="both").tokens.config, pretrained="random:0")
