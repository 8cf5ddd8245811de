"""A table of one's own."""

import polars as pl
import pytest

from d2st.cache.errors import ConfigError, ManifestError


def test_csv(tree, scan):
    tree("a/1.mp4", "a/2.jpg", "f/v/1.png", "f/v/2.png")
    (tree.root / "list.csv").write_text(
        "path,label,method,split,identity,box\n"
        "a/1.mp4,fake,FaceSwap,train,id1|id2,\n.\\a\\2.jpg,0,,test,id3,1|2|30|40\nf/v,FAKE,,validation,,\ngone.mp4,1,,,,\nnotes.txt,1,,,,\n"
    )
    tree("notes.txt")
    made, rows = scan(tree.root / "list.csv")
    assert made.layout == "table"
    first = rows["a/1.mp4"]
    assert (first["label"], first["method"], first["split"], first["dataset"]) == (1, "FaceSwap", "train", "list")
    assert first["identity"] == ["list/id1", "list/id2"]
    assert rows["a/2.jpg"]["box"] == [1, 2, 30, 40]
    assert (rows["f/v"]["kind"], rows["f/v"]["split"], rows["f/v"]["frames"]) == ("frames", "val", 2)
    assert made.ignored.missing == ["gone.mp4"]
    assert made.ignored.extensions == {".txt": 1}


def test_parquet_with_lists(tree, scan):
    tree("a.mp4", "b.mp4")
    rows = {"path": ["a.mp4", "b.mp4"], "label": [0, 1], "identity": [["x"], ["x", "y"]], "dataset": ["one", "two"]}
    pl.DataFrame(rows).write_parquet(tree.root / "list.parquet")
    _, rows = scan(tree.root / "list.parquet")
    assert rows["b.mp4"]["identity"] == ["two/x", "two/y"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.mp4,1\n", "lacks the column path"),
        ("path,label,colour\na.mp4,1,red\n", "unknown columns colour"),
        ("path,label\na.mp4,perhaps\n", "row 2: label 'perhaps'"),
        ("path,label,split\na.mp4,1,dev2\n", "split 'dev2'"),
        ("path,label,box\na.mp4,1,1|2|3\n", "is not 4 numbers"),
        ("path,label\na.mp4,1\na.mp4,0\n", r"lists a\.mp4 twice"),
    ],
)
def test_bad_tables(tree, scan, text, said):
    tree("a.mp4")
    (tree.root / "list.csv").write_text(text)
    with pytest.raises(ManifestError, match=said):
        scan(tree.root / "list.csv")


def test_asked_for_layout_and_root(tree, scan):
    tree("real/a.mp4", "fake/b.mp4")
    assert scan(layout="folders")[0].layout == "class folders"
    with pytest.raises(ConfigError, match="layout 'ff' is not known"):
        scan(layout="ff")
    with pytest.raises(ConfigError, match="media folder already"):
        scan(root=tree.root)
