"""A small media folder of ready-made crops, so that builds take a quarter of a second: detector "none", the smallest backbone, and files
decoded without processes."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from d2st.pipeline.build import crops
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import build_detector
from d2st.pipeline.manifest import SCHEMA, sample_id
from d2st.pipeline.media import DecodePool
from d2st.pipeline.media.encode import write_h264


def _manifest_row(path: str, kind: str, label: int, split: str, **more):
    row = dict.fromkeys(SCHEMA)
    return row | {
        "sample_id": sample_id("toy", path),
        "path": path,
        "kind": kind,
        "label": label,
        "dataset": "toy",
        "method": "swap" if label else "real",
        "split": split,
        "video_id": f"toy/{path}",
        "identity": [path],
        **more,
    }


def _make_media(root: Path, *, videos: int = 6, images: int = 6) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for i in range(videos):
        length = 2 if i == 0 else 9  # the first one is shorter than T
        frames = [
            np.full((48, 48, 3), 10 * i + 5 * k, np.uint8) + generator.integers(0, 9, (48, 48, 3), np.uint8)
            for k in range(length)
        ]
        write_h264(root / f"v{i}.mp4", frames, fps=25)
        rows.append(_manifest_row(f"v{i}.mp4", "video", i % 2, ("train", "val", "test")[i % 3]))
    for i in range(images):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)).save(root / f"i{i}.png")
        rows.append(_manifest_row(f"i{i}.png", "image", i % 2, ("train", "val", "test")[i % 3]))
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.fixture(scope="session")
def manifest_row():
    """A function (path, kind, label, split, **more) -> one manifest row."""
    return _manifest_row


@pytest.fixture(scope="session")
def make_media():
    """A function (root, videos=, images=) -> manifest of the files that it wrote there."""
    return _make_media


@pytest.fixture(scope="session")
def settings():
    return CropSettings(frames=4, sampling="even", size=32)


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """(root, manifest) of 6 videos and 6 images."""
    root = tmp_path_factory.mktemp("media")
    return root, _make_media(root)


@pytest.fixture(scope="session")
def detector():
    return build_detector("none", weights=None, device="cpu")


@pytest.fixture(scope="session")
def encoder():
    return Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ("block_0", "block_2"), micro_batch=8)


def _beside(name: str):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shrink_shards():
    """Makes shards hold 8 frames, so that a toy corpus has several; takes what patches."""

    def shrink(patch):
        for name, module in list(sys.modules.items()):
            if name.startswith("d2st.") and hasattr(module, "SHARD_FRAMES"):
                patch.setattr(module, "SHARD_FRAMES", 8)

    return shrink


@pytest.fixture(scope="module")
def small_shards(shrink_shards):
    """Shards of 8 frames, in all of a module."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_shards(patch)
        yield


@pytest.fixture(autouse=True, scope="module")
def decoded_here():
    """Builds decode in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "DecodePool", _beside("decode_here").DecodeHere)
        yield


@pytest.fixture
def decoding_processes(monkeypatch):
    """Builds of this test decode as they do for users."""
    monkeypatch.setattr(crops, "DecodePool", DecodePool)


@pytest.fixture(scope="session")
def harness():
    """The module kill_harness: jobs in processes that can be killed at any file operation."""
    return _beside("kill_harness")


@pytest.fixture(scope="session")
def server(harness):
    """A `kill_harness.Server`: shards of 4 frames, crops of 32 px, no decoding processes."""
    with harness.Server() as running:
        yield running
