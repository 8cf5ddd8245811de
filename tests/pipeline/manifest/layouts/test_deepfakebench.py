"""DeepfakeBench lists: compression level or none, separators, prefixes, subsets, val that repeats test."""

import json

import pytest

from d2st.cache.errors import ManifestError


def frames(folder, numbers=(0, 11, 22)):
    return [f"{folder}/{n:03}.png" for n in numbers]


def listed(tree, content):
    (tree.root / "list.json").write_text(json.dumps(content))
    return tree.root / "list.json"


def entry(label, paths):
    return {"label": label, "frames": paths}


def test_compression_level_and_people(tree, scan):
    real, fake = (
        "FaceForensics++/original_sequences/youtube/c23/frames/071",
        "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/071_054",
    )
    tree(*frames(real), *frames(fake))
    content = {
        "FaceForensics++": {
            "FF-real": {"train": {"c23": {"071": entry("FF-real", frames(real))}}},
            "FF-DF": {
                "train": {"c23": {"071_054": entry("FF-DF", [f"\\{p}".replace("/", "\\") for p in frames(fake)])}},
                "val": {},
            },
        }
    }
    made, rows = scan(listed(tree, content))
    assert made.layout == "DeepfakeBench"
    row = rows[fake]
    assert (row["label"], row["method"], row["dataset"], row["compression"]) == (1, "Deepfakes", "FaceForensics++", "c23")
    assert row["identity"] == ["FaceForensics++/054", "FaceForensics++/071"]
    assert (row["kind"], row["frames"], row["frame_files"]) == ("frames", 3, None)
    assert rows[real]["method"] == "real"


@pytest.mark.parametrize("prefix", ["", "/", "/mnt/other/machine/", "datasets/rgb/"])
def test_prefixes_of_other_machines(tree, scan, prefix):
    video = "Celeb-DF-v1/YouTube-real/frames/00170"
    tree(*frames(video))
    content = {
        "Celeb-DF-v1": {"CelebDFv1_real": {"test": {"00170": entry("CelebDFv1_real", [prefix + p for p in frames(video)])}}}
    }
    _, rows = scan(listed(tree, content))
    assert list(rows) == [video]
    assert (rows[video]["label"], rows[video]["split"], rows[video]["compression"]) == (0, "test", None)


def test_a_subset_of_the_frames_and_missing_ones(tree, scan):
    video, gone = "UADFV/fake/frames/0001_fake", "UADFV/fake/frames/0002_fake"
    tree(*frames(video, range(10)))
    content = {
        "UADFV": {
            "UADFV_Fake": {
                "test": {
                    "0001_fake": entry("UADFV_Fake", [*frames(video, (2, 4)), f"{video}/999.png"]),
                    "0002_fake": entry("UADFV_Fake", frames(gone)),
                }
            }
        }
    }
    made, rows = scan(listed(tree, content))
    assert rows[video]["frame_files"] == ["002.png", "004.png"]
    assert rows[video]["frames"] == 2
    assert (rows[video]["method"], rows[video]["label"]) == ("UADFV", 1)
    assert made.ignored.missing == [f"{video}/999.png", gone]


def test_val_that_repeats_test_leaves_the_videos_in_test(tree, scan):
    video = "DFDC/test/frames/x"
    tree(*frames(video))
    split = {"x": entry("DFDC_Fake", frames(video))}
    made, rows = scan(listed(tree, {"DFDC": {"DFDC_Fake": {"train": {}, "val": split, "test": split}}}))
    assert rows[video]["split"] == "test"
    assert made.ignored.aside == {"listed in val and in another split or group": 1}


def test_same_folder_names_of_two_manipulations_stay_two_videos(tree, scan):
    one, two = "DF40/a/frames/id0", "DF40/b/frames/id0"
    tree(*frames(one), *frames(two))
    content = {
        "a": {
            "a_Real": {"test": {"id0": entry("a_Real", frames(one))}},
            "a_Fake": {"test": {"id0": entry("a_Fake", frames(two))}},
        }
    }
    _, rows = scan(listed(tree, content))
    assert rows[one]["video_id"] != rows[two]["video_id"]
    assert [rows[one]["label"], rows[two]["label"]] == [0, 1]


def test_other_media_folder(tree, scan, tmp_path):
    video = "s/frames/v"
    tree(*frames(f"deep/rgb/{video}"))
    content = {"s": {"s_Fake": {"test": {"v": entry("s_Fake", frames(video))}}}}
    _, rows = scan(listed(tree, content), root=tree.root / "deep" / "rgb")
    assert list(rows) == [video]
    with pytest.raises(ManifestError, match="none of the 1 samples"):
        scan(listed(tree, content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": {"b": {"dev": {}}}}, "has a split 'dev'"),
        ({"a": []}, "the list is not what"),
        ({"a": {"b": {"test": {"v": 3}}}}, "a / b / test"),
    ],
)
def test_another_structure(tree, scan, content, said):
    with pytest.raises(ManifestError, match=said):
        scan(listed(tree, content))


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("whichisreal_Fake", (1, "whichisreal")),
        ("whichisreal_Real", (0, "real")),
        ("DFDCP_FakeB", (1, "DFDCP")),
        ("FF-NT", (1, "NeuralTextures")),
        ("Celeb-real", (0, "real")),
        ("UADFV_Real", (0, "real")),
    ],
)
def test_the_last_word_of_a_label_decides(tree, scan, label, says):
    tree(*frames("v"))
    _, rows = scan(listed(tree, {"set": {label: {"test": {"v": entry(label, frames("v"))}}}}))
    assert (rows["v"]["label"], rows["v"]["method"]) == says


@pytest.mark.parametrize(
    "video", [entry(0, frames("v")), entry("1", frames("v")), {"frames": frames("v")}, entry("x_Real", None)]
)
def test_a_video_without_a_label_in_words_or_frames_is_refused(tree, scan, video):
    tree(*frames("v"))
    with pytest.raises(ManifestError, match=r"set / real / test / v does not have the frames and the label"):
        scan(listed(tree, {"set": {"real": {"test": {"v": video}}}}))
