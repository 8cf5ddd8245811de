"""The list for DeepfakeBench: reading it again gives the same samples."""

import json

import polars as pl
import pytest

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest import scan_folder
from d2st.pipeline.manifest.export import to_deepfakebench


def test_round_trip(tmp_path):
    for path in ("train/real/v1", "train/fake/Swap/v1", "test/fake/Swap/v2"):
        for number in range(4):
            file = tmp_path / "set" / path / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{path}{number}".encode())
    (tmp_path / "set" / "train" / "real" / "film.mp4").write_bytes(b"x")
    before = scan_folder(tmp_path / "set").manifest
    subset = ["0.png", "2.png"]
    before = before.with_columns(
        frame_files=pl.when(pl.col("path").str.ends_with("v2")).then(pl.lit(subset)).otherwise(pl.col("frame_files"))
    )
    made, left = to_deepfakebench(before, tmp_path / "set")
    assert left == 1
    (tmp_path / "list.json").write_text(json.dumps(made))
    after = scan_folder(tmp_path / "list.json", root=tmp_path / "set").manifest
    columns = ["sample_id", "path", "kind", "label", "dataset", "method", "split"]
    frames = before.filter(pl.col("kind") == "frames").sort("sample_id")
    assert after.select(columns).equals(frames.select(columns))
    assert after.filter(pl.col("path").str.ends_with("v2"))["frame_files"].to_list() == [subset]


def test_compression_level_where_all_have_one(tmp_path):
    folder = tmp_path / "manipulated_sequences" / "Deepfakes" / "c23" / "frames" / "000_003"
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"{number}.png").write_bytes(b"x")
    made, _ = to_deepfakebench(scan_folder(tmp_path, dataset="FF++", split="test").manifest, tmp_path)
    (video,) = made["FF++"]["Deepfakes_Fake"]["test"]["c23"].values()
    assert [path.rpartition("/")[2] for path in video["frames"]] == ["0.png", "1.png"]


def test_faceforensics_has_the_labels_that_deepfakebench_knows_and_keeps_its_people(tmp_path):
    for path in ("original_sequences/youtube/c23/frames/000", "manipulated_sequences/Deepfakes/c23/frames/000_003"):
        (tmp_path / path).mkdir(parents=True)
        for number in range(2):
            (tmp_path / path / f"{number}.png").write_bytes(path.encode() + bytes([number]))
    before = scan_folder(tmp_path, dataset="FaceForensics++", split="test").manifest
    made, _ = to_deepfakebench(before, tmp_path)
    assert made["FaceForensics++"].keys() == {"FF-real", "FF-DF"}
    (tmp_path / "list.json").write_text(json.dumps(made))
    after = scan_folder(tmp_path / "list.json").manifest
    columns = ["sample_id", "path", "label", "dataset", "method", "split", "identity", "compression"]
    assert after.select(columns).equals(before.select(columns))


def test_videos_whose_names_meet_are_all_there(tmp_path):
    for path in ("real/a_b/c_1", "real/a/b_c_1", "fake/M/v1", "fake/M/v2"):
        (tmp_path / path).mkdir(parents=True)
        for number in range(2):
            (tmp_path / path / f"{number}.png").write_bytes(path.encode() + bytes([number]))
    before = scan_folder(tmp_path, split="test").manifest
    one = (
        pl.when(pl.col("label") == 1).then(pl.lit("set/clip")).otherwise(pl.col("video_id"))
    )  # as a table of one's own may say
    made, _ = to_deepfakebench(before.with_columns(video_id=one), tmp_path)
    (tmp_path / "list.json").write_text(json.dumps(made))
    after = scan_folder(tmp_path / "list.json").manifest
    assert after.select("sample_id", "label").equals(before.select("sample_id", "label"))


def test_nothing_to_export(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").write_bytes(b"x")
    with pytest.raises(ManifestError, match="none of the 1 samples is a folder of frames"):
        to_deepfakebench(scan_folder(tmp_path).manifest, tmp_path)
