"""The rules: each is broken once in an otherwise sound manifest, and alone is reported."""

import polars as pl
import pytest

from d2st.pipeline.manifest import SCHEMA, check_files, check_manifest, sample_id


def row(path, label, split, **changes):
    base = {
        "sample_id": sample_id("d", path),
        "path": path,
        "kind": "video",
        "label": label,
        "dataset": "d",
        "method": "swap" if label else "real",
        "split": split,
        "video_id": f"d/{path}",
        "identity": [f"d/{path}"],
    }
    return base | changes


def frame(*changed):
    rows = {f"{split}{label}": row(f"{split}{label}", label, split) for split in ("train", "val", "test") for label in (0, 1)}
    rows |= {item["path"]: item for item in changed}
    blank = dict.fromkeys(SCHEMA)
    return pl.DataFrame([blank | item for item in rows.values()], schema=SCHEMA)


def codes(manifest, severity="error"):
    return {(finding.code, finding.count) for finding in check_manifest(manifest) if finding.severity == severity}


FIRST = sample_id("d", "train0")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ([], set()),
        ([row("x", 1, "test", identity=["d/train0", "d/new"])], {("identity_leak", 1)}),
        ([row("x", 0, "test", video_id="d/train0")], {("video_leak", 1)}),
        ([row("x", 1, "train", video_id="d/train0")], {("video_label", 1)}),
        ([row("x", 0, "test", duplicate_of=FIRST)], {("duplicate_leak", 1)}),
        ([row("x", 1, "train", duplicate_of=FIRST)], {("duplicate_label", 1)}),
        ([row("x", 0, "train", duplicate_of="0" * 32)], {("duplicate_dangling", 1)}),
        ([row("x", 0, "train", method="swap"), row("y", 1, "train", method="real")], {("method", 2)}),
        ([row("x", 0, "train", sample_id=FIRST)], {("sample_id", 2)}),
        ([row("x", 3, "train", method="a")], {("label", 1)}),
        ([row("x", 0, None)], {("empty_cell", 1)}),
    ],
)
def test_one_broken_rule_is_reported_alone(changed, expected):
    assert codes(frame(*changed)) == expected


def test_a_file_of_two_data_sets():
    def also(label, split):
        other = frame(row("x", label, split)).filter(pl.col("path") == "x").with_columns(path=pl.lit("train0"))
        return codes(pl.concat([frame(), other]))

    assert also(0, "train") == set()
    assert also(0, "test") == {("path_leak", 1)}
    assert also(1, "train") == {("path_label", 1)}


def test_warnings():
    assert codes(frame(), "warning") == set()
    assert codes(frame(row("x", 0, "train", duplicate_of=FIRST)), "warning") == {("duplicate", 1)}
    assert codes(frame(row("x", 0, "train", sample_id="1" * 32)), "warning") == {("sample_id_derived", 1)}
    assert codes(frame().filter(pl.col("path") != "val1"), "warning") == {("one_class_split", 1)}
    assert codes(frame().filter(pl.col("split") != "val"), "warning") == {("empty_split", 1)}


def test_an_empty_val_is_fine_only_where_nothing_is_trained_on():
    fixes = [
        finding.fix
        for rows in (frame().filter(pl.col("split") != "val"), frame().filter(pl.col("split") == "test"))
        for finding in check_manifest(rows)
        if finding.code == "empty_split" and "val" in finding.message
    ]
    assert [fix.split(":")[0] for fix in fixes] == ["Training needs one", "Fine for a data set that is only tested on"]


def test_no_rows_is_an_error():
    assert codes(frame().clear()) == {("no_rows", 0)}


def test_examples_name_the_place():
    leak = next(finding for finding in check_manifest(frame(row("x", 1, "test", identity=["d/train0"]))))
    assert leak.examples == ("d/train0 (test, train)",)


def test_missing_files(tmp_path):
    for path in frame()["path"]:
        (tmp_path / path).touch()
    assert check_files(frame(), tmp_path) == []
    (tmp_path / "val1").unlink()
    (finding,) = check_files(frame(), tmp_path)
    assert (finding.code, finding.count, finding.examples) == ("missing", 1, ("val1",))
