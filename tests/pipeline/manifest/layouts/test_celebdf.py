"""Celeb-DF: 1 in its list means real."""

import pytest

from d2st.cache.errors import ManifestError

FILES = (
    "Celeb-real/id0_0000.mp4",
    "Celeb-real/id1_0000.mp4",
    "YouTube-real/00170.mp4",
    "YouTube-real/00171.mp4",
    "Celeb-synthesis/id0_id1_0000.mp4",
    "Celeb-synthesis/id1_id0_0003.mp4",
)
LIST = "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n0 Celeb-synthesis/id7_id9_0001.mp4\n"


def test_list_labels_and_people(tree, scan):
    tree(*FILES)
    (tree.root / "List_of_testing_videos.txt").write_text(LIST)
    made, rows = scan()
    assert made.layout == "Celeb-DF"
    assert {path: row["split"] for path, row in rows.items()} == {path: "test" if path in LIST else "train" for path in FILES}
    assert [rows[path]["label"] for path in FILES] == [0, 0, 0, 0, 1, 1]
    assert rows[FILES[4]]["identity"] == ["set/id0", "set/id1"]
    assert rows[FILES[2]]["identity"] == ["set/YouTube-real/00170"]
    assert made.ignored.missing == ["Celeb-synthesis/id7_id9_0001"]


def test_without_its_list_it_is_split_by_people(tree, scan):
    tree(*FILES)
    _, rows = scan()
    assert len({rows[path]["split"] for path in FILES if "id" in path}) == 1, "all of these share people"


@pytest.mark.parametrize(
    ("line", "said"), [("0 YouTube-real/00170.mp4", "other label than its folder"), ("real a.mp4", "line 1")]
)
def test_damaged_list(tree, scan, line, said):
    tree(*FILES)
    (tree.root / "List_of_testing_videos.txt").write_text(line)
    with pytest.raises(ManifestError, match=said):
        scan()


def test_a_byte_order_mark_and_tabs_are_read_and_no_text_is_refused(tree, scan):
    tree(*FILES)
    (tree.root / "List_of_testing_videos.txt").write_bytes(b"\xef\xbb\xbf1\tYouTube-real/00170.mp4\r\n")
    assert [path for path, row in scan()[1].items() if row["split"] == "test"] == ["YouTube-real/00170.mp4"]
    (tree.root / "List_of_testing_videos.txt").write_bytes(b"1 YouTube-real/\xe9.mp4\n")
    with pytest.raises(ManifestError, match="as text"):
        scan()
