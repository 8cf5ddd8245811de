"""Manifests on disk: byte-determinism, relative roots, refusals."""

import shutil

import polars as pl
import pytest

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest import SCHEMA, manifest_root, read_manifest, scan_folder, write_manifest


@pytest.fixture
def made(tmp_path):
    root = tmp_path / "data" / "faces"
    for path in ("train/real/a.mp4", "train/fake/gan/b.mp4", "test/real/c.jpg"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    manifest = scan_folder(root).manifest
    path = tmp_path / "work" / "faces [v*].parquet"  # no pattern, just a name
    write_manifest(manifest, path, root=root)
    return manifest, path, root


def test_round_trip_is_exact_and_bytes_do_not_depend_on_row_order(made):
    manifest, path, root = made
    assert read_manifest(path).equals(manifest)
    before = path.read_bytes()
    write_manifest(manifest.reverse(), path, root=root)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_root_moves_with_the_folder_and_can_be_overruled(made, tmp_path):
    _, path, root = made
    assert manifest_root(path) == root
    shutil.move(tmp_path / "data", tmp_path / "moved" / "data")
    with pytest.raises(ManifestError, match="does not exist"):
        manifest_root(path)
    shutil.move(tmp_path / "work", tmp_path / "moved" / "work")
    moved = tmp_path / "moved" / "work" / path.name
    assert manifest_root(moved) == tmp_path / "moved" / "data" / "faces"
    assert manifest_root(moved, tmp_path) == tmp_path
    assert str(tmp_path).encode() not in moved.read_bytes()


def test_files_that_are_no_manifest(tmp_path, made):
    manifest, path, _ = made
    with pytest.raises(ManifestError, match="there is no manifest"):
        read_manifest(tmp_path / "none.parquet")
    path.write_text("not Parquet")
    with pytest.raises(ManifestError, match="can't be read as Parquet"):
        read_manifest(path)
    manifest.drop("method").with_columns(extra=1).write_parquet(path)
    with pytest.raises(ManifestError, match="lacks the columns method and has the extra columns extra"):
        read_manifest(path)
    manifest.with_columns(pl.col("label").cast(pl.Int64)).write_parquet(path)
    with pytest.raises(ManifestError, match="label is Int64, not Int8"):
        read_manifest(path)
    manifest.write_parquet(path)
    with pytest.raises(ManifestError, match="does not say where its media are"):
        manifest_root(path)


def test_column_order_of_the_file_does_not_matter(made):
    manifest, path, _ = made
    manifest.select(reversed(SCHEMA.names())).write_parquet(path)
    assert read_manifest(path).equals(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit(2).cast(pl.Int8).alias("label"), "neither 0"),
        (pl.lit(None, pl.String).alias("method"), "have no method"),
        (pl.lit("/abs/a.mp4").alias("path"), "not relative"),
        (pl.lit("a\\b.mp4").alias("path"), "not relative"),
        (pl.lit("../b.mp4").alias("path"), "not relative"),
        (pl.lit("C:/b.mp4").alias("path"), "not relative"),
        (pl.lit("same").alias("sample_id"), "share their sample_id"),
        (pl.lit([1.0, 2.0], pl.List(pl.Float32)).alias("box"), "boxes"),
        (pl.lit([1.0, 2.0], pl.List(pl.Float32)).alias("landmarks"), "landmarks"),
        (pl.lit([], pl.List(pl.String)).alias("identity"), "name no identity"),
        (pl.lit("swap").alias("method"), "contradict"),
    ],
)
def test_rows_that_make_no_sense_are_neither_written_nor_read(made, change, message):
    manifest, path, root = made
    wrong = manifest.with_columns(change)
    with pytest.raises(ManifestError, match=message):
        write_manifest(wrong, path, root=root)
    wrong.write_parquet(path)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)
