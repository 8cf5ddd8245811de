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


def test_numbers_of_a_parquet_are_names_and_0_is_one(tree, scan):
    tree("a.mp4", "b.mp4")
    rows = {"path": ["a.mp4", "b.mp4"], "label": [0, 1], "identity": [0, 7], "video_id": [0, 1], "method": [None, 3]}
    pl.DataFrame(rows).write_parquet(tree.root / "list[1].parquet")  # and no pattern of several files
    _, rows = scan(tree.root / "list[1].parquet", dataset="own")
    assert [rows["a.mp4"][name] for name in ("identity", "video_id")] == [["own/0"], "own/0"]
    assert [rows["b.mp4"][name] for name in ("identity", "video_id", "method")] == [["own/7"], "own/1", "3"]


@pytest.mark.parametrize("nobody", [[[None], [None], ["x"]], [float("nan"), float("nan"), 7.0], [None, None, "x"]])
def test_nobody_is_no_person(tree, scan, nobody):
    tree("a.mp4", "b.mp4", "c.mp4")
    rows = {"path": ["a.mp4", "b.mp4", "c.mp4"], "label": [0, 1, 1], "identity": nobody}
    pl.DataFrame(rows).write_parquet(tree.root / "list.parquet")
    _, rows = scan(tree.root / "list.parquet")
    assert [rows[path]["identity"] for path in ("a.mp4", "b.mp4")] == [["list/a"], ["list/b"]]


def test_splits_that_are_numbers_or_lists_are_refused(tree, scan):
    tree("a.mp4")
    for split, said in ((1, "split '1' is not known"), (["train"], "the column split holds List")):
        pl.DataFrame({"path": ["a.mp4"], "label": [1], "split": [split]}).write_parquet(tree.root / "list.parquet")
        with pytest.raises(ManifestError, match=said):
            scan(tree.root / "list.parquet")


def test_as_a_spreadsheet_writes_it(tree, scan):
    tree("a.mp4", "b.mp4")
    (tree.root / "list[1].csv").write_bytes(b"\xef\xbb\xbfpath,label,split\r\na.mp4,Fake,test\r\n\r\nb.mp4,1.0,test\r\n,,\r\n")
    _, rows = scan(tree.root / "list[1].csv")
    assert {path: row["label"] for path, row in rows.items()} == {"a.mp4": 1, "b.mp4": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.mp4,1\n", "lacks the column path"),
        ("path,label,colour\na.mp4,1,red\n", "unknown columns colour"),
        ("path,label\na.mp4,perhaps\n", "row 2: label 'perhaps'"),
        ("path,label,split\na.mp4,1,dev2\n", "split 'dev2'"),
        ("path,label,box\na.mp4,1,1|2|3\n", "is not 4 numbers"),
        ("path,label\na.mp4,1\na.mp4,0\n", r"lists a\.mp4 twice"),
        ("path,label\na.mp4,1\n.//a.mp4,0\n", r"lists a\.mp4 twice"),
        ("path,label,kind\na.mp4,1,movie\n", "row 2: kind 'movie'"),
        ("path,label\n,1\n", "row 2 names no path"),
        ("path,label,box\na.mp4,1,1|2|3|nan\n", "is not 4 numbers"),
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
