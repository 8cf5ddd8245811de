"""int8 builds: one calibration for the whole store, whoever makes it and whenever; statistics are those of what is read back."""

import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from d2st.cache import Store
from d2st.cache.codec import decode
from d2st.cache.errors import StoreError
from d2st.cache.level import StagedShard
from d2st.cache.reader import ArrayReader
from d2st.cache.store import CALIBRATION
from d2st.pipeline.build import work
from d2st.pipeline.build.run import build
from d2st.pipeline.clip import Encoder, load_backbone

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Builders look around often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "POLL_S", 0.05)
        yield


@pytest.fixture(scope="module")
def run(media, detector, settings):
    root, manifest = media

    def run_build(store, *, rows=manifest, encoder=None, **more):
        encoder = encoder or make_encoder()
        return build(rows, store, root=root, detector=detector, settings=settings, encoder=encoder, workers=1, **more)

    return run_build


def make_encoder() -> Encoder:
    backbone = load_backbone("d2st-test", "random:0", device="cpu")
    return Encoder(backbone, ("block_0", "block_2"), micro_batch=8, dtype="int8")


@pytest.fixture(scope="module")
def whole(run, small_shards, tmp_path_factory):
    """A store that one undisturbed builder made; to be read alone."""
    store = tmp_path_factory.mktemp("whole") / "s"
    run(store)
    return store


def tree(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_statistics_are_those_of_the_values_that_are_read(whole):
    store = Store.open(whole)
    spans = store.samples().filter(split="train").select("start", "frames_cached").rows()
    rows = np.concatenate([np.arange(start, start + count) for start, count in spans])
    for layer in store.tokens.layers:
        found = {}
        for kind in ("maps", "scales"):
            reader = ArrayReader(store.tokens.array(layer, kind))
            found[kind] = np.empty((len(rows), *reader.frame_shape), reader.dtype)
            reader.read(rows, found[kind])
        flat = decode(found["maps"], found["scales"], store.tokens.calibration[layer]).double().flatten(0, -2).numpy()
        mean, std = store.tokens.stats[layer]
        np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(std, flat.std(0), rtol=1e-4, atol=1e-6)


def test_every_order_of_builders_gives_the_same_bytes(tmp_path, run, whole):
    """The part that lacks the first shards makes their crops, and no more, to calibrate."""
    run(tmp_path / "s", part=(2, 2))
    run(tmp_path / "s")
    assert tree(tmp_path / "s") == tree(whole)


def test_builders_at_once_quantise_alike(tmp_path, run, whole):
    errors = []

    def one(encoder):
        try:
            run(tmp_path / "s", encoder=encoder)
        except BaseException as error:
            errors.append(error)

    builders = [threading.Thread(target=one, args=[encoder]) for encoder in (make_encoder(), make_encoder())]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert errors == []
    assert tree(tmp_path / "s") == tree(whole)


def test_stopped_on_the_way_it_goes_on_to_the_same_bytes(tmp_path, run, whole, monkeypatch):
    commit, seen = StagedShard.commit, []

    def killed(self, *args, **more):
        seen.append(1)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return commit(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StagedShard, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "s")
    run(tmp_path / "s")
    assert tree(tmp_path / "s") == tree(whole)


def test_the_calibration_stays_when_samples_and_splits_change(tmp_path, run, media):
    _, manifest = media
    run(tmp_path / "s", rows=manifest[:8])
    before = (tmp_path / "s" / "tokens" / CALIBRATION).read_bytes()
    moved = manifest.with_columns(split=pl.lit("train").cast(manifest.schema["split"]))
    report = run(tmp_path / "s", rows=moved)
    assert (tmp_path / "s" / "tokens" / CALIBRATION).read_bytes() == before
    assert report.statistics > 0


def test_without_training_samples_all_frames_calibrate_it(tmp_path, run, media):
    _, manifest = media
    rows = manifest.filter(pl.col("split") != "train")
    assert run(tmp_path / "s", rows=rows).samples == rows.height
    assert (tmp_path / "s" / "tokens" / CALIBRATION).exists()


def test_nothing_usable_needs_no_calibration(tmp_path, run, media):
    _, manifest = media
    rows = manifest.with_columns(path=pl.lit("gone/") + pl.col("path"))
    assert run(tmp_path / "s", rows=rows).rejected == {"missing": 12}


def test_a_damaged_calibration_is_found(tmp_path, run, whole):
    shutil.copytree(whole, tmp_path / "s")
    (tmp_path / "s/tokens/ledger/000001.parquet").unlink()  # so that there is something to encode
    path = tmp_path / "s" / "tokens" / CALIBRATION
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="calibration"):
        run(tmp_path / "s")
