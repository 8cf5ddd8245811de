"""The loader: the very bytes of the store, padding zeroed, order kept, buffers reused, memory flat, errors passed on."""

import contextlib
import os
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from d2st.cache import Request, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES
from d2st.cache.codec import as_tensor, dequantise
from d2st.cache.errors import ConfigError, StoreError
from d2st.cache.in_memory import DeviceFrames
from d2st.cache.order import epoch_order
from d2st.cache.upload import Uploader

LAYERS = ("block_1", "block_3")
FRAMES = SHARD_FRAMES + 30
DTYPES = ("float16", "bfloat16", "int8")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.fixture(scope="module")
def stores(tmp_path_factory, token_store):
    folder = tmp_path_factory.mktemp("stores")
    return {dtype: token_store(folder / dtype, dtype, FRAMES) for dtype in DTYPES}


@pytest.fixture
def built(stores):
    return stores["float16"]


def requests(count, seed=0):
    generator = np.random.default_rng(seed)
    for tag in range(count):
        batch, length = generator.integers(1, 5), generator.integers(1, 8)
        rows = generator.integers(0, FRAMES - length, size=(batch, 1)) + np.arange(length)
        for clip in rows:
            clip[generator.integers(1, length + 1) :] = -1
        yield Request(rows, tag)


def expected(built, layer, kind, rows):
    """What a batch must hold, by the plainest of ways."""
    mask = torch.from_numpy(rows >= 0)
    values = as_tensor(built.arrays[f"{layer}/{kind}"][rows])
    if kind == "maps" and built.calibration:
        scales = torch.from_numpy(built.arrays[f"{layer}/scales"][rows])
        values = dequantise(values, scales, *map(torch.from_numpy, built.calibration[layer]))
    return torch.where(mask.view(*mask.shape, *[1] * (values.ndim - 2)), values, torch.zeros((), dtype=values.dtype))


def check(built, request, batch):
    assert batch.tag is request.tag
    assert torch.equal(batch.mask.cpu(), torch.from_numpy(request.rows >= 0))
    for layer in LAYERS:
        for kind, tensors in (("maps", batch.tokens), ("cls", batch.cls)):
            assert torch.equal(tensors[layer].cpu(), expected(built, layer, kind, request.rows)), (layer, kind)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_hold_the_rows_asked_for(stores, dtype, threads, depth, in_memory, device):
    wanted = list(requests(60))
    with TokenLoader(stores[dtype].store, threads=threads, depth=depth, in_memory=in_memory, device=device) as loader:
        for _ in range(2):
            for request, batch in zip(wanted, loader.stream(iter(wanted)), strict=True):
                check(stores[dtype], request, batch)


class PretendedStream:
    """A CUDA stream that has done everything at once; counts what it was asked for."""

    waits = 0

    def record_event(self):
        return self

    def wait_event(self, event):
        type(self).waits += event is not None

    def synchronize(self):
        pass


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_way_to_a_gpu_without_one(stores, dtype, in_memory, monkeypatch, threads_left):
    """Everything that the loader does for a GPU, but for the GPU: slots, turns, the copying thread, frames kept on the device."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: PretendedStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: PretendedStream())
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    built, wanted = stores[dtype], list(requests(60))
    loader = TokenLoader(built.store, depth=2)
    loader._uploader = Uploader(loader.device)
    if in_memory:
        loader._kept = DeviceFrames(loader._readers, rows=2 * SHARD_FRAMES, frames=FRAMES, device=loader.device)
    for stop in (60, 7, 60):
        stream, addresses = loader.stream(iter(wanted)), []
        for request, batch in zip(wanted[:stop], stream, strict=False):
            time.sleep(0.0005)  # lets the next copy run while this batch is in use
            check(built, request, batch)
            addresses.append(batch.cls["block_1"].data_ptr())
        stream.close()
        assert all(here != there for here, there in pairwise(addresses[-5:]))  # two sets of buffers take turns
    assert PretendedStream.waits >= 100
    assert threads_left() == []
    if in_memory:
        assert len(loader._kept.missing(np.concatenate([request.rows.reshape(-1) for request in wanted]))) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_slow_gpu_never_sees_the_next_batch(stores, in_memory):
    """The GPU lags behind: what it reads, long after the next batch was asked for, must still be this batch."""
    built, wanted = stores["int8"], list(requests(60, seed=4))
    seen = []
    with TokenLoader(built.store, device="cuda", depth=2, in_memory=in_memory) as loader:
        for batch in loader.stream(iter(wanted)):
            torch.cuda._sleep(20_000_000)
            seen.append({layer: tokens.clone() for layer, tokens in batch.tokens.items()})
    for request, tokens in zip(wanted, seen, strict=True):
        for layer in LAYERS:
            assert torch.equal(tokens[layer].cpu(), expected(built, layer, "maps", request.rows))


def test_layers_can_be_chosen_and_maps_left_out(built):
    batch = next(TokenLoader(built.store, ["block_3"], maps=False).stream(requests(1)))
    assert batch.tokens == {}
    assert list(batch.cls) == ["block_3"]
    with pytest.raises(ConfigError, match="no layer block_7"):
        TokenLoader(built.store, ["block_7"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_are_reused(stores, dtype):
    loader = TokenLoader(stores[dtype].store, depth=2)
    request = Request(np.arange(12).reshape(1, 12))
    addresses = [batch.tokens["block_1"].data_ptr() for batch in loader.stream([request] * 12)]
    assert len(set(addresses)) == (1 if dtype == "int8" else 3)
    assert next(loader.stream([request])).tokens["block_1"].data_ptr() in addresses


@pytest.mark.skipif(not os.path.isfile("/proc/self/statm"), reason="measures memory by /proc")
def test_memory_stays_flat(stores):
    def resident_bytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    loader = TokenLoader(stores["int8"].store)
    sizes = []
    for number, _ in enumerate(loader.stream(requests(2000))):
        if number in (500, 1999):
            sizes.append(resident_bytes())
    assert sizes[1] - sizes[0] < 2**20  # 1,500 batches of up to 3 KiB a layer, had they stayed, would take more


def test_a_stream_can_be_left_early_and_leaves_no_thread(built, threads_left):
    loader = TokenLoader(built.store)
    for _ in range(3):
        assert next(loader.stream(requests(10))).tag == 0
    stream = loader.stream(requests(10))
    next(stream)
    with pytest.raises(RuntimeError, match="streaming already"):
        next(loader.stream(requests(1)))
    stream.close()
    assert threads_left() == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
def test_closing_closes_the_files(built):
    def open_files():
        there = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum(str(built.store.path) in os.readlink(link) for link in there if os.path.exists(link))

    before = open_files()
    with TokenLoader(built.store) as loader:
        list(loader.stream(requests(5)))
        assert open_files() > before
    assert open_files() == before


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_row_outside_is_an_error_with_its_batch(built, in_memory):
    wanted = [Request(np.array([[0]])), Request(np.array([[FRAMES + 5]])), Request(np.array([[9 * SHARD_FRAMES]]))]
    loader = TokenLoader(built.store, in_memory=in_memory)
    stream = loader.stream(wanted)
    next(stream)
    with pytest.raises(StoreError, match="never written"):
        next(stream)
    with pytest.raises(StoreError, match="is missing"):
        next(loader.stream(wanted[2:]))
    assert next(loader.stream(wanted[:1])).mask.all()


def test_an_epoch_shows_every_clip_once_and_resumes(built):
    clips = np.arange(50)[:, None] * 2 + np.arange(2)  # (N, T)
    loader = TokenLoader(built.store)
    whole = [batch.tag for batch in loader.epoch(clips, 8, seed=1, epoch=0)]
    assert [len(tag) for tag in whole] == [8, 8, 8, 8, 8, 8, 2]
    assert sorted(np.concatenate(whole).tolist()) == list(range(50))
    for tag, batch in zip(whole[3:], loader.epoch(clips, 8, seed=1, epoch=0, start_batch=3), strict=True):
        np.testing.assert_array_equal(batch.tag, tag)
        check(built, Request(clips[tag], batch.tag), batch)
    ranks = [np.concatenate([b.tag for b in loader.epoch(clips, 8, seed=1, epoch=0, rank=r, ranks=3)]) for r in range(3)]
    assert [len(part) for part in ranks] == [17, 17, 17]
    np.testing.assert_array_equal(np.stack(ranks, 1).reshape(-1)[:50], epoch_order(50, seed=1, epoch=0))


def test_an_empty_stream_ends_at_once(built):
    assert list(TokenLoader(built.store).stream([])) == []
