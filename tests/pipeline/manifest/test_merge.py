"""Merged manifests: ids stay, paths count from above, contradictions are refused."""

import polars as pl
import pytest

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest import check_files, check_manifest, scan_folder
from d2st.pipeline.manifest.merge import common_root, merge


@pytest.fixture
def parts(tmp_path):
    made = []
    for name in ("one", "deep/two"):
        for path in ("train/real/a.mp4", "test/fake/x/a.mp4"):
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{name}{path}".encode())
        made.append((scan_folder(tmp_path / name).manifest, tmp_path / name))
    return made


def test_ids_stay_and_files_are_found(parts, tmp_path):
    root = common_root([media for _, media in parts])
    assert root == tmp_path.resolve()
    merged = merge(parts, root=root)
    assert set(merged["sample_id"]) == {name for rows, _ in parts for name in rows["sample_id"]}
    assert "deep/two/train/real/a.mp4" in set(merged["path"])
    assert check_files(merged, root) == []
    assert not [finding for finding in check_manifest(merged) if finding.code == "sample_id_derived"]


def test_the_same_rows_count_once_and_other_rows_are_refused(parts, tmp_path):
    root = tmp_path.resolve()
    assert merge([*parts, parts[0]], root=root).equals(merge(parts, root=root))
    other = parts[0][0].with_columns(split=pl.lit("val", parts[0][0].schema["split"]))
    with pytest.raises(ManifestError, match="2 samples are in two manifests"):
        merge([*parts, (other, parts[0][1])], root=root)
