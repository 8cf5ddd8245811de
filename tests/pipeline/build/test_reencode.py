"""More token maps from the same crops: no media are read, what is there stays, and the result is that of a build which asked for it at
once.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from d2st.cache import Store
from d2st.cache.errors import ConfigError, FingerprintError, StoreError, WeightsError
from d2st.cache.level import StagedShard
from d2st.cache.reader import ArrayReader
from d2st.pipeline.build.reencode import add_layers, encode_set
from d2st.pipeline.build.run import build
from d2st.pipeline.clip import Encoder, load_backbone


def make_encoder(layers: str = "0,2", *, seed: int = 0, **more) -> Encoder:
    names = tuple(f"block_{number}" for number in layers.split(","))
    return Encoder(load_backbone("d2st-test", f"random:{seed}", device="cpu"), names, micro_batch=8, **more)


def tree(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def array(store: Path, layer: str, kind: str, *, tokens: str = "main") -> np.ndarray:
    """All cached rows of an array, as bytes that compare exactly."""
    opened = Store.open(store, tokens=tokens)
    rows = [np.arange(s, s + n) for s, n in opened.samples().sort("start").select("start", "frames_cached").rows()]
    with ArrayReader(opened.tokens.array(layer, kind)) as reader:
        values = np.empty((sum(map(len, rows)), *reader.frame_shape), reader.dtype)
        reader.read(np.concatenate(rows), values)
    return values


pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(scope="module")
def built(tmp_path_factory, media, detector, settings, small_shards):
    """A store with blocks 0 and 2, to be read alone; its media are gone."""
    folder = tmp_path_factory.mktemp("built")
    root = shutil.copytree(media[0], folder / "media")
    build(media[1], folder / "s", root=root, detector=detector, settings=settings, encoder=make_encoder(), workers=1)
    shutil.rmtree(root)
    return folder / "s"


@pytest.fixture
def store(built, tmp_path):
    """A copy of that store."""
    return Path(shutil.copytree(built, tmp_path / "s"))


@pytest.fixture
def run(tmp_path, media, detector, settings):
    """A function (name, encoder) -> store built from media that are gone afterwards."""

    def run_build(name, encoder, **more):
        root = shutil.copytree(media[0], tmp_path / f"media-{name}")
        build(media[1], tmp_path / name, root=root, detector=detector, settings=settings, encoder=encoder, workers=1, **more)
        shutil.rmtree(root)
        return tmp_path / name

    return run_build


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_added_layers_are_those_of_a_build_with_all_of_them(run, dtype):
    store = run("s", make_encoder("0", dtype=dtype))
    before = tree(store)
    report = add_layers(store, "1,2", device="cpu")
    assert report.built_tokens == report.planned_shards > 1
    assert {name: data for name, data in tree(store).items() if name in before} == before
    assert add_layers(store, "1,2", device="cpu").built_tokens == 0
    whole = run("whole", make_encoder("0,1,2", dtype=dtype))
    left, right = Store.open(store), Store.open(whole)
    assert left.tokens.layers == right.tokens.layers == ("block_0", "block_1", "block_2")
    assert left.tokens.fingerprint == right.tokens.fingerprint
    assert left.samples().equals(right.samples())
    for layer in right.tokens.layers:
        for kind in ("maps", "cls", "scales") if dtype == "int8" else ("maps", "cls"):
            np.testing.assert_array_equal(array(store, layer, kind), array(whole, layer, kind))
    for name, (mean, std) in right.tokens.stats.items():
        np.testing.assert_array_equal(left.tokens.stats[name][0], mean)
        np.testing.assert_array_equal(left.tokens.stats[name][1], std)


def test_another_set_lies_beside_the_first(run, store):
    before = tree(store)
    encode_set(store, "other", make_encoder("1", seed=1))
    after = tree(store)
    assert {name: data for name, data in after.items() if name in before} == before
    assert all(name.startswith("tokens-other/") for name in after.keys() - before.keys())
    assert Store.open(store).token_sets() == ["main", "other"]
    fresh = run("fresh", make_encoder("1", seed=1))
    np.testing.assert_array_equal(array(store, "block_1", "maps", tokens="other"), array(fresh, "block_1", "maps"))
    with pytest.raises(FingerprintError):
        encode_set(store, "other", make_encoder("1", seed=2))
    add_layers(store, "0", tokens="other", device="cpu")
    assert Store.open(store, tokens="other").tokens.layers == ("block_0", "block_1")
    assert Store.open(store).tokens.layers == ("block_0", "block_2")


def test_stopped_on_the_way_it_goes_on_to_the_same_bytes(store, monkeypatch):
    shutil.copytree(store, store.with_name("whole"))
    encode_set(store.with_name("whole"), "x", make_encoder(dtype="int8"))
    commit, seen = StagedShard.commit, []

    def killed(self, *args, **more):
        seen.append(1)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return commit(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StagedShard, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            encode_set(store, "x", make_encoder(dtype="int8"))
    encode_set(store, "x", make_encoder(dtype="int8"), part=(1, 2))
    encode_set(store, "x", make_encoder(dtype="int8"))
    assert tree(store) == tree(store.with_name("whole"))


def test_what_makes_no_sense_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="block_2 already"):
        add_layers(store, "1,2", device="cpu")
    with pytest.raises(ConfigError, match="no block"):
        add_layers(store, "17", device="cpu")
    with pytest.raises(WeightsError, match="not those"):
        add_layers(store, "1", pretrained="random:1", device="cpu")
    with pytest.raises(ConfigError, match="main"):
        encode_set(store, "main", make_encoder())
    with pytest.raises(ConfigError, match="token set"):
        encode_set(store, "../x", make_encoder())
    with pytest.raises(StoreError, match="no d2st store"):
        encode_set(tmp_path / "nowhere", "x", make_encoder())


def test_new_samples_come_to_added_layers_too(run, media, detector, settings, tmp_path):
    root, manifest = media
    store = tmp_path / "s"
    more = {"root": root, "detector": detector, "settings": settings, "workers": 1}
    build(manifest[:8], store, encoder=make_encoder("0"), **more)
    add_layers(store, "1", device="cpu")
    build(manifest, store, encoder=make_encoder("0"), **more)
    assert Store.open(store).samples().height == 8, "a sample counts when all layers have it"
    assert add_layers(store, "1", device="cpu").built_tokens > 0
    assert Store.open(store).samples().height == 12
