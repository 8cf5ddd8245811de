"""FaceForensics++: pairs stand for both directions, masks are no samples, DFD is another set."""

import json

import pytest

from d2st.cache.errors import ManifestError

REAL, FAKE = "original_sequences/youtube/c23/videos", "manipulated_sequences/{}/c23/videos"


def published(tree):
    tree(*(f"{REAL}/{n}.mp4" for n in ("000", "003", "071", "054", "100", "101")))
    for method in ("Deepfakes", "FaceShifter"):
        tree(*(f"{FAKE.format(method)}/{n}.mp4" for n in ("000_003", "003_000", "071_054", "100_101")))
    tree("manipulated_sequences/Deepfakes/masks/videos/000_003.mp4")
    for split, pairs in (("train", [["000", "003"]]), ("val", [["071", "054"]]), ("test", [["100", "101"]])):
        (tree.root / f"{split}.json").write_text(json.dumps(pairs))


def test_labels_methods_splits_and_people(tree, scan):
    published(tree)
    made, rows = scan()
    assert made.layout == "FaceForensics++"
    row = rows["manipulated_sequences/Deepfakes/c23/videos/003_000.mp4"]
    assert (row["label"], row["method"], row["split"], row["compression"]) == (1, "Deepfakes", "train", "c23")
    assert row["identity"] == ["set/000", "set/003"]
    assert rows[f"{REAL}/054.mp4"]["split"] == "val"
    assert rows[f"{REAL}/054.mp4"]["identity"] == ["set/054"]
    assert not any("masks" in path for path in rows)
    assert len(rows) == 6 + 8
    assert made.ignored.unplaced.total() == 1


def test_dfd_is_a_set_of_its_own_and_all_of_it_is_test(tree, scan):
    published(tree)
    fake = "manipulated_sequences/DeepFakeDetection/c40/videos/01_02__outside_talking__YVGY8LOK.mp4"
    tree(fake, "original_sequences/actors/c40/videos/02__outside_talking.mp4")
    _, rows = scan()
    assert rows[fake]["dataset"] == "DeepFakeDetection"
    assert rows[fake]["split"] == "test"
    assert rows[fake]["identity"] == ["DeepFakeDetection/actor01", "DeepFakeDetection/actor02"]
    assert rows[f"{REAL}/000.mp4"]["dataset"] == "set"


def test_extracted_frames_are_videos(tree, scan):
    tree(*(f"manipulated_sequences/FaceSwap/c40/frames/000_003/{n:04}.png" for n in range(3)))
    tree(*(f"original_sequences/youtube/raw/images/000/{n:04}.png" for n in range(2)))
    _, rows = scan()
    row = rows["manipulated_sequences/FaceSwap/c40/frames/000_003"]
    assert (row["kind"], row["frames"], row["identity"]) == ("frames", 3, ["set/000", "set/003"])
    assert rows["original_sequences/youtube/raw/images/000"]["compression"] == "raw"


def test_missing_videos_are_listed_and_not_fatal(tree, scan):
    published(tree)
    (tree.root / REAL / "054.mp4").unlink()
    (tree.root / FAKE.format("Deepfakes") / "071_054.mp4").unlink()
    (tree.root / FAKE.format("FaceShifter") / "071_054.mp4").unlink()
    made, _ = scan()
    assert made.ignored.missing == ["original_sequences/.../054"]


def test_damaged_split_file(tree, scan):
    published(tree)
    (tree.root / "val.json").write_text('{"071": "054"}')
    with pytest.raises(ManifestError, match=r"val\.json is not a list of pairs"):
        scan()
    (tree.root / "val.json").write_text('[["000", "054"]]')
    with pytest.raises(ManifestError, match="000 is in train too"):
        scan()
