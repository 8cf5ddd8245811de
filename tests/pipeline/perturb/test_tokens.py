"""Changed crops as a stream of batches: without a change it is the cache's own, bit for bit."""

import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from d2st.cache import Request, Store, TokenLoader
from d2st.cache.errors import StoreError
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.encoders import encoder_like, view_encoder
from d2st.pipeline.build.reencode import encode_set
from d2st.pipeline.build.run import build
from d2st.pipeline.build.views import View
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import build_detector
from d2st.pipeline.perturb import PerturbedTokens

LAYERS = ("block_0", "block_2")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One store a dtype, of 6 videos (the first of 2 frames, the others of 4) and 6 images; crops of 33 px into a backbone of 32."""
    folder = tmp_path_factory.mktemp("perturb")
    manifest = runpy.run_path(str(Path(__file__).parents[1] / "build" / "conftest.py"))["_make_media"](folder)
    made = {}
    for dtype in ("float16", "bfloat16", "int8"):
        encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu"), LAYERS, micro_batch=8, dtype=dtype)
        pieces = {"settings": CropSettings(frames=4, size=33), "detector": build_detector("none"), "encoder": encoder}
        build(manifest, folder / f"{dtype}.d2st", root=folder, workers=1, **pieces)
        made[dtype] = Store.open(folder / f"{dtype}.d2st")
    return made


def encoder_of(store, layers=LAYERS):
    return encoder_like(store.tokens.levels[0], ",".join(layers), None, "cpu")


def requests(samples, *, clip=3, batch=2):
    """Clips in the order of the disk, padded, a few a batch; and then each frame alone, so that samples lie across batches."""
    placed = samples.sort("start").select("start", "frames_cached").rows()
    clips = [[start + k if k < count else -1 for k in range(clip)] for start, count in placed]
    alone = [[start + k] for start, count in placed for k in range(count)]
    for rows, size in ((clips, batch), (alone, 5)):
        for begin in range(0, len(rows), size):
            yield Request(np.array(rows[begin : begin + size]), tag=begin)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:1]], ids=["both", "one"])
def test_without_a_change_it_is_the_cache(stores, dtype, layers):
    store = stores[dtype]
    samples = store.samples()
    with PerturbedTokens(store, encoder_of(store, layers), samples) as tokens, TokenLoader(store, layers) as loader:
        for ours, theirs in zip(tokens.stream(requests(samples)), loader.stream(requests(samples)), strict=True):
            assert ours.tag == theirs.tag
            assert torch.equal(ours.mask, theirs.mask)
            for here, there in ((ours.tokens, theirs.tokens), (ours.cls, theirs.cls)):
                assert here.keys() == there.keys() == set(layers)
                for layer in layers:
                    kept = theirs.mask
                    assert here[layer].dtype == there[layer].dtype
                    assert torch.equal(here[layer][kept], there[layer][kept])
                    assert not here[layer][~kept].any()


def test_a_view_is_applied_behind_the_change(stores):
    store = stores["float16"]
    encode_set(
        store.path, "flip", view_encoder(store.path, "flip", layers=None, pretrained=None, device="cpu"), view=View(flip=True)
    )
    view = Store.open(store.path, tokens="flip")
    rows = np.array([[int(view.samples()["start"][0])]])
    with PerturbedTokens(view, encoder_of(view), view.samples()) as tokens, TokenLoader(view) as loader:
        (ours,), (theirs,) = (list(source.stream([Request(rows)])) for source in (tokens, loader))
    assert torch.equal(ours.tokens["block_2"], theirs.tokens["block_2"])


def test_the_change_sees_each_sample_whole_and_once(stores):
    store = stores["float16"]
    samples, seen = store.samples(), []

    def change(crops, sample):
        seen.append((sample, len(crops)))
        return 255 - crops

    alone = list(requests(samples))[-6:]  # every batch cuts through a sample
    with PerturbedTokens(store, encoder_of(store), samples, change) as tokens:
        made = [batch.tokens["block_0"].clone() for batch in tokens.stream(alone)]
    assert len(seen) == len({name for name, _ in seen})
    assert dict(seen).items() <= dict(samples.select("sample_id", "frames_cached").rows()).items()
    with TokenLoader(store) as loader:
        cached = [batch.tokens["block_0"].clone() for batch in loader.stream(alone)]
    assert all(not torch.equal(ours, theirs) for ours, theirs in zip(made, cached, strict=True))


def test_few_crops_are_in_memory_however_many_samples_there_are(stores):
    store = stores["float16"]
    samples, seen, taken = store.samples(), [], 0
    with PerturbedTokens(store, encoder_of(store), samples, lambda crops, sample: seen.append(sample) or crops) as tokens:
        for batch in tokens.stream(request for request in requests(samples, batch=1) if request.rows.shape[1] == 3):
            taken += len(batch.mask)
            assert len(seen) <= taken + 2


def test_rows_of_others_and_lost_crops_are_errors(stores, tmp_path):
    store = stores["float16"]
    samples = store.samples().sort("start")
    with (
        PerturbedTokens(store, encoder_of(store), samples.head(2)) as tokens,
        pytest.raises(ValueError, match="belong to none of the samples"),
    ):
        list(tokens.stream([Request(np.array([[int(samples["start"][3])]]))]))
    far = samples.head(1).with_columns(start=pl.lit(300, pl.Int64))
    with PerturbedTokens(store, encoder_of(store), far) as tokens, pytest.raises(StoreError, match="never written"):
        list(tokens.stream([Request(np.array([[300]]))]))
