"""A list may name some of a folder's frames: these alone are built, whatever else lies in the folder; older manifests name none."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from d2st.cache import Store
from d2st.cache.reader import ArrayReader
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.run import build
from d2st.pipeline.manifest import manifest_root, read_manifest, scan_folder, write_manifest

FORMAT1 = Path(__file__).parents[2] / "cache" / "format1.d2st"
LISTED = (1, 4, 6)
REAL, FAKE = "set/real/c23/frames/000", "set/Deepfakes/c23/frames/000_003"


@pytest.fixture
def listed(tmp_path):
    """A DeepfakeBench list of a folder whole and of three of another's eight frames; frame n is all of grey 10 n."""
    for folder in (REAL, FAKE):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (48, 48), (10 * number,) * 3).save(tmp_path / folder / f"{number:03d}.png")

    def entry(label, folder, numbers):
        return {"label": label, "frames": ["\\" + f"{folder}/{n:03d}.png".replace("/", "\\") for n in numbers]}

    videos = {
        "FF-real": {"train": {"c23": {"000": entry("FF-real", REAL, range(8))}}},
        "FF-DF": {"train": {"c23": {"000_003": entry("FF-DF", FAKE, LISTED)}}},
    }
    (tmp_path / "list.json").write_text(json.dumps({"FaceForensics++": videos}))
    return tmp_path / "list.json"


@pytest.fixture
def run(detector, encoder):
    def run_build(rows, store, *, root):
        settings = CropSettings(frames=6, sampling="even", size=32)
        return build(rows, store, root=root, detector=detector, settings=settings, encoder=encoder, workers=1)

    return run_build


def greys(store):
    """Path -> the grey of each cached crop."""
    found = {}
    with ArrayReader(store.crops.path / "frames") as reader:
        for path, start, frames in store.samples().select("path", "start", "frames_cached").iter_rows():
            crops = np.empty((frames, 32, 32, 3), np.uint8)
            reader.read(range(start, start + frames), crops)
            assert (crops == crops[:, :1, :1, :1]).all()
            found[path] = crops[:, 0, 0, 0].tolist()
    return found


def test_crops_are_those_of_the_named_frames_alone(listed, tmp_path, run):
    scan = scan_folder(listed)
    write_manifest(scan.manifest, tmp_path / "faces.parquet", root=scan.root)
    rows = read_manifest(tmp_path / "faces.parquet")
    report = run(rows, tmp_path / "s", root=manifest_root(tmp_path / "faces.parquet"))
    assert (report.samples, report.rejected, report.padded) == (2, {}, 1)
    assert greys(Store.open(tmp_path / "s")) == {FAKE: [10 * n for n in LISTED], REAL: [0, 20, 30, 40, 60, 70]}


def test_manifest_without_the_column_takes_all_frames(listed, tmp_path, run):
    scan = scan_folder(listed)
    write_manifest(scan.manifest, tmp_path / "new.parquet", root=scan.root)
    metadata = pl.read_parquet_metadata(tmp_path / "new.parquet")
    older = pl.read_parquet(tmp_path / "new.parquet").drop("frame_files")
    older.write_parquet(tmp_path / "old.parquet", metadata={"root": metadata["root"]})
    rows = read_manifest(tmp_path / "old.parquet")
    assert rows["frame_files"].null_count() == 2
    run(rows, tmp_path / "s", root=manifest_root(tmp_path / "old.parquet"))
    assert greys(Store.open(tmp_path / "s"))[FAKE] == [0, 20, 30, 40, 60, 70]


def test_store_whose_manifest_lacks_the_column_opens(tmp_path):
    shutil.copytree(FORMAT1, tmp_path / "s")
    kept = pl.read_parquet(tmp_path / "s" / "manifest.parquet")
    assert "frame_files" not in kept.columns
    assert len(Store.open(tmp_path / "s").samples()) > 0
