"""A scan: what it finds, what it leaves aside and says so, and what it refuses."""

import os
import re

import polars as pl
import pytest

from d2st.cache.errors import ConfigError, ManifestError
from d2st.pipeline.manifest import SCHEMA, check_manifest, sample_id, scan_folder


def touch(root, *paths, data=None):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode() if data is None else data)


def notes(scan):
    return "\n".join(scan.notes)


def test_manifest_has_the_schema_and_stable_ids(tmp_path):
    touch(tmp_path, "real/ä b.mp4", "fake/gan/b.jpg")
    manifest = scan_folder(tmp_path, dataset="demo").manifest
    assert manifest.schema == SCHEMA
    assert set(manifest["sample_id"]) == {sample_id("demo", "real/ä b.mp4"), sample_id("demo", "fake/gan/b.jpg")}
    assert manifest["sample_id"].is_sorted()
    assert sample_id("demo", "train/real/a.mp4") == "779348151c2711fbab8635f2017676b4", (
        "ids must never change: caches hold them"
    )


def test_scan_does_not_depend_on_where_the_data_lie(tmp_path):
    for place in ("one", "two"):
        touch(tmp_path / place / "faces", *(f"{c}/{k}.mp4" for c in ("real", "fake") for k in range(20)))
    first, second = (scan_folder(tmp_path / place / "faces").manifest for place in ("one", "two"))
    assert first.equals(second)
    assert first["dataset"].unique().to_list() == ["faces"]


def test_what_is_left_aside_is_counted(tmp_path):
    touch(
        tmp_path,
        "real/a.mp4",
        "real/a.faces.json",
        "real/Thumbs.db",
        "fake/notes.txt",
        "fake/.hidden.mp4",
        "fake/b.mp4",
        "x/c.mp4",
    )
    scan = scan_folder(tmp_path)
    assert set(scan.manifest["path"]) == {"real/a.mp4", "fake/b.mp4"}
    assert scan.ignored.extensions == {".json": 1, ".db": 1, ".txt": 1, "hidden": 1}
    assert "media that the layout has no place for: 1 file in 1 folder" in notes(scan)


@pytest.mark.skipif(os.name == "nt", reason="names are always text there")
def test_name_that_is_not_text_is_left_aside(tmp_path):
    touch(tmp_path, "real/a.mp4")
    try:
        (tmp_path / "real" / os.fsdecode(b"b\xff.mp4")).write_bytes(b"b")
    except OSError:
        pytest.skip("this file system takes text only")
    scan = scan_folder(tmp_path)
    assert scan.manifest.height == 1
    assert "not valid UTF-8: 1" in notes(scan)


def test_links_are_followed_and_loops_are_not(tmp_path):
    touch(tmp_path / "elsewhere", "a.mp4")
    touch(tmp_path / "root", "fake/b.mp4")
    (tmp_path / "root" / "real").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root" / "fake" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert set(scan_folder(tmp_path / "root").manifest["path"]) == {"real/a.mp4", "fake/b.mp4", "fake/gone.mp4"}


def test_unknown_tree_says_what_it_saw_and_what_it_wants(tmp_path):
    touch(tmp_path, "alice/a.mp4", "bob/b.mp4")
    with pytest.raises(ManifestError) as caught:
        scan_folder(tmp_path)
    assert "alice, bob" in caught.value.message
    assert "2 media files" in caught.value.message
    assert "ROOT/fake/METHOD" in caught.value.fix
    with pytest.raises(ManifestError, match="no list of samples"):
        scan_folder(tmp_path / "alice" / "a.mp4")


def test_identities_are_all_matches_of_the_pattern(tmp_path):
    touch(tmp_path, "real/id1_0.mp4", "real/id2_0.mp4", "fake/swap/id1_id2_0.mp4", "fake/swap/x.mp4")
    scan = scan_folder(tmp_path, dataset="d", identity=r"id(\d+)")
    rows = {path: sorted(names) for path, names in scan.manifest.select("path", "identity").iter_rows()}
    assert rows["fake/swap/id1_id2_0.mp4"] == ["d/1", "d/2"]
    assert rows["real/id1_0.mp4"] == ["d/1"]
    assert rows["fake/swap/x.mp4"] == ["d/fake/swap/x"], "no match: its own identity"
    assert "matches 3 of 4" in notes(scan)


@pytest.mark.parametrize("pattern", ["id[", "id", "(i)(d)"])
def test_identity_pattern_needs_one_group(tmp_path, pattern):
    touch(tmp_path, "real/a.mp4")
    with pytest.raises(ConfigError, match=re.escape(pattern)):
        scan_folder(tmp_path, identity=pattern)


def test_identity_pattern_that_matches_nothing_is_refused(tmp_path):
    touch(tmp_path, "real/a.mp4")
    with pytest.raises(ManifestError, match="matches none of 1 paths"):
        scan_folder(tmp_path, identity="person(.)")


@pytest.mark.parametrize("options", [{"split": "holdout"}, {"frames_folders": "perhaps"}])
def test_unknown_words_are_refused(tmp_path, options):
    touch(tmp_path, "real/a.mp4")
    with pytest.raises(ConfigError, match="is not known"):
        scan_folder(tmp_path, **options)


def test_missing_splits_are_made_without_leaks(tmp_path):
    touch(tmp_path, *(f"real/id{k}.mp4" for k in range(30)), *(f"fake/swap/id{k}_id{k + 1}.mp4" for k in range(0, 30, 2)))
    scan = scan_folder(tmp_path, identity=r"id(\d+)")
    assert "15 groups of connected identities" in notes(scan)
    assert {finding.code for finding in check_manifest(scan.manifest)} == set()
    assert set(scan.manifest["split"]) == {"train", "val", "test"}


def test_split_option_overrules_folders(tmp_path):
    touch(tmp_path, "train/real/a.mp4", "val/fake/b.mp4")
    assert set(scan_folder(tmp_path, split="test").manifest["split"]) == {"test"}


def test_copies_point_to_the_first_and_stay_in_its_split(tmp_path):
    touch(tmp_path, *(f"real/{k:02}.mp4" for k in range(20)), *(f"fake/{k:02}.mp4" for k in range(20)))
    touch(tmp_path, "real/03.mp4", "real/zz.mp4", "fake/deep/copy.mp4", data=b"the same bytes")
    touch(tmp_path, "real/same_size.mp4", data=b"The same bytes")
    touch(tmp_path, "real/empty1.mp4", "real/empty2.mp4", data=b"")
    scan = scan_folder(tmp_path, dataset="d")
    copies = scan.manifest.filter(pl.col("duplicate_of").is_not_null())
    assert set(copies["path"]) == {"real/03.mp4", "real/zz.mp4"}
    assert set(copies["duplicate_of"]) == {sample_id("d", "fake/deep/copy.mp4")}
    group = scan.manifest.filter(pl.col("path").is_in(["real/03.mp4", "real/zz.mp4", "fake/deep/copy.mp4"]))
    assert group["split"].n_unique() == 1
    assert "2 files are byte for byte copies" in notes(scan)
    assert [(finding.code, finding.count) for finding in check_manifest(scan.manifest) if finding.severity == "error"] == [
        ("duplicate_label", 2)
    ]


def test_copied_frame_folders_are_found(tmp_path):
    for name in ("a", "b", "c"):
        touch(tmp_path, f"real/{name}/0.png", data=b"12" if name != "c" else b"1")
        touch(tmp_path, f"real/{name}/1.png", data=b"3" if name != "c" else b"23")
    scan = scan_folder(tmp_path, dataset="d", split="test")
    assert scan.manifest.drop_nulls("duplicate_of").select("path", "duplicate_of").rows() == [
        ("real/b", sample_id("d", "real/a"))
    ]


def test_only_files_of_equal_size_are_opened(tmp_path, monkeypatch):
    from d2st.pipeline.manifest import duplicates

    touch(tmp_path, "real/a.mp4", "real/bb.mp4", "fake/ccc.mp4")
    monkeypatch.setattr(duplicates, "_digest", lambda path, kind: pytest.fail(f"{path} was opened"))
    scan_folder(tmp_path)


def test_layout_that_was_asked_for_and_does_not_fit(tmp_path):
    touch(tmp_path, "real/a.mp4")
    with pytest.raises(ManifestError, match="layout celeb-df does not fit") as caught:
        scan_folder(tmp_path, layout="celeb-df")
    assert "Celeb-synthesis" in caught.value.fix
    assert "dfdc_train_part_0" not in caught.value.fix
    with pytest.raises(ManifestError, match="is a folder; the layout table is that of a list"):
        scan_folder(tmp_path, layout="table")
    with pytest.raises(ManifestError, match=r"a\.mp4 is a file; the layout ffpp is that of a folder"):
        scan_folder(tmp_path / "real" / "a.mp4", layout="ffpp")
    with pytest.raises(ManifestError, match=r"can't read .*dataset\.json: No such file"):
        scan_folder(tmp_path, layout="dfdc-preview")
