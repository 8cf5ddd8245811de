"""Class folders: what each part of a path is taken for."""

import pytest

from d2st.pipeline.manifest import scan_folder
from d2st.pipeline.manifest.layouts.folders import CLASS_NAMES, SPLIT_NAMES


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def rows(root, **options):
    return {row["path"]: row for row in scan_folder(root, **options).manifest.iter_rows(named=True)}


@pytest.mark.parametrize(
    ("path", "label", "method", "split"),
    [
        ("train/real/a.mp4", 0, "real", "train"),
        ("train/fake/Deepfakes/a.mp4", 1, "Deepfakes", "train"),
        ("fake/validation/FaceSwap/x/a.mp4", 1, "FaceSwap", "val"),
        ("fake/FaceSwap/test/a.mp4", 1, "FaceSwap", "test"),
        ("Testing/1_fake/a.jpg", 1, "unknown", "test"),
        ("some/where/DEV/Originals/youtube/a.mkv", 0, "real", "val"),
        ("test/fake/real/a.mp4", 1, "unknown", "test"),
        ("test/Synthetic/diffusion model/bild ä.PNG", 1, "diffusion model", "test"),
    ],
)
def test_path_parts(tmp_path, path, label, method, split):
    touch(tmp_path, path)
    row = rows(tmp_path, dataset="d")[path]
    assert (row["label"], row["method"], row["split"]) == (label, method, split)
    assert row["video_id"] == "d/" + path.rpartition(".")[0]


@pytest.mark.parametrize("name", sorted(CLASS_NAMES))
def test_every_class_name_in_any_case(tmp_path, name):
    touch(tmp_path, f"{name.upper()}/a.mp4")
    assert rows(tmp_path, split="test")[f"{name.upper()}/a.mp4"]["label"] == CLASS_NAMES[name]


@pytest.mark.parametrize("name", sorted(SPLIT_NAMES))
def test_every_split_name(tmp_path, name):
    touch(tmp_path, f"{name}/real/a.mp4")
    assert rows(tmp_path)[f"{name}/real/a.mp4"]["split"] == SPLIT_NAMES[name]


def test_numbered_images_in_a_leaf_folder_are_one_video(tmp_path):
    touch(tmp_path, *(f"fake/Deepfakes/000_003/frame_{k}.png" for k in (2, 10, 1)), *(f"real/vid/{k:03}.jpg" for k in range(2)))
    touch(tmp_path, "real/vid/000.faces.json", "real/vid/Thumbs.db")
    found = rows(tmp_path)
    assert set(found) == {"fake/Deepfakes/000_003", "real/vid"}
    assert found["fake/Deepfakes/000_003"]["method"] == "Deepfakes"
    assert [found[path]["frames"] for path in sorted(found)] == [3, 2]
    assert {row["kind"] for row in found.values()} == {"frames"}


def test_frame_folder_right_under_the_class_is_no_method(tmp_path):
    touch(tmp_path, "fake/000_003/0.png", "fake/000_003/1.png")
    assert rows(tmp_path)["fake/000_003"]["method"] == "unknown"
    singles = rows(tmp_path, frames_folders="never")
    assert {row["method"] for row in singles.values()} == {"unknown"}
    assert {row["video_id"].rpartition("/")[2] for row in singles.values()} == {"000_003"}, "frames of a video share its group"


@pytest.mark.parametrize(
    "paths",
    [
        ("fake/gan/0001.png",),  # one image is no video
        ("fake/gan/0001.png", "fake/gan/portrait.png"),
        ("fake/gan/0001.png", "fake/gan/0002.mp4"),
        ("fake/0001.png", "fake/0002.png"),  # the class folder is a collection
        ("fake/test/0001.png", "fake/test/0002.png"),  # and so is a split
        ("fake/gan/0001.png", "fake/gan/0002.png", "fake/gan/deeper/x.png"),
    ],
)
def test_collections_stay_single(tmp_path, paths):
    touch(tmp_path, *paths)
    assert set(rows(tmp_path)) == set(paths)


def test_always_takes_any_leaf_folder_of_images(tmp_path):
    touch(tmp_path, "real/anna/left.png", "real/anna/right.png", "real/loose.png")
    assert {path: row["kind"] for path, row in rows(tmp_path, frames_folders="always").items()} == {
        "real/anna": "frames",
        "real/loose.png": "image",
    }
