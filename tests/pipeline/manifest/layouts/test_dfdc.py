"""DFDC and its preview: metadata beside the videos, the original as leakage group."""

import json

import pytest

from d2st.cache.errors import ManifestError


def part(tree, number, entries):
    folder = f"dfdc_train_part_{number}"
    tree(*(f"{folder}/{name}" for name in entries))
    (tree.root / folder / "metadata.json").write_text(json.dumps(entries))


def test_original_is_the_leakage_group(tree, scan):
    for number in range(8):
        real = f"real{number}.mp4"
        fakes = {f"fake{number}{k}.mp4": {"label": "FAKE", "split": "train", "original": real} for k in range(3)}
        part(tree, number, {real: {"label": "REAL", "split": "train"}, **fakes})
    made, rows = scan()
    assert made.layout == "DFDC"
    assert len(rows) == 32
    for number in range(8):
        group = [row for path, row in rows.items() if f"part_{number}/" in path]
        assert len({row["split"] for row in group}) == 1
        assert {tuple(row["identity"]) for row in group} == {(f"set/real{number}",)}
        assert sum(row["label"] for row in group) == 3
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}


def test_labels_of_the_test_set(tree, scan):
    tree("test/videos/a.mp4", "test/videos/b.mp4", "test/videos/unknown.mp4")
    (tree.root / "test" / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\ngone.mp4,1\n")
    made, rows = scan()
    assert {path: (row["label"], row["split"]) for path, row in rows.items()} == {
        "test/videos/a.mp4": (1, "test"),
        "test/videos/b.mp4": (0, "test"),
    }
    assert made.ignored.missing == ["test/gone"]
    assert made.ignored.unplaced == {"test/videos": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a.mp4": {"label": "MAYBE"}}', "has the label 'MAYBE'"),
        ('{"a.mp4"', "is not JSON"),
        ("[1]", "does not map file names"),
        ('{"a.mp4": {"label": "REAL", "split": "dev"}}', "knows a split 'dev'"),
        ('{"a.mp4": {"label": "REAL", "split": ["dev"]}}', "knows a split"),
        ('{"\xe9.mp4": {"label": "REAL"}}', "is not JSON"),
    ],
)
def test_damaged_metadata(tree, scan, content, said):
    tree("part/a.mp4")
    (tree.root / "part" / "metadata.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ManifestError, match=said):
        scan()


def test_preview(tree, scan):
    entries = {
        "method_A/1/x.mp4": {"label": "fake", "set": "train", "target_id": 1, "swapped_id": 2},
        "original_videos/1/y.mp4": {"label": "real", "set": "test", "target_id": 1, "swapped_id": None},
        "method_B/3/z.mp4": {"label": "fake", "set": "test", "target_id": 3, "swapped_id": 4},
    }
    tree(*list(entries)[:2])
    (tree.root / "dataset.json").write_text(json.dumps(entries))
    made, rows = scan()
    assert made.layout == "DFDC preview"
    row = rows["method_A/1/x.mp4"]
    assert (row["label"], row["method"], row["split"], row["identity"]) == (1, "method_A", "train", ["set/1", "set/2"])
    assert rows["original_videos/1/y.mp4"]["identity"] == ["set/1"]
    assert made.ignored.missing == ["method_B/3/z"]


def test_labels_that_are_no_text_are_refused_and_a_byte_order_mark_is_not(tree, scan):
    tree("test/a.mp4")
    (tree.root / "test" / "labels.csv").write_bytes(b"filename,label\n\xe9.mp4,1\n")
    with pytest.raises(ManifestError, match="is not a table of text"):
        scan()
    (tree.root / "test" / "labels.csv").unlink()
    (tree.root / "test" / "metadata.json").write_text('{"a.mp4": {"label": "FAKE", "original": 7}}', encoding="utf-8-sig")
    assert scan()[1]["test/a.mp4"]["identity"] == ["set/7"]
