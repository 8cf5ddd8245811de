"""`d2st manifest`: what a user sees, on stdout and as JSON, and the exit codes."""

import json
import re

import pytest
from typer.testing import CliRunner

from d2st.cache.errors import ConfigError, ManifestError
from d2st.cli.manifest import app
from d2st.pipeline.manifest import read_manifest


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def faces(tmp_path):
    root = tmp_path / "faces"
    for split in ("train", "val", "test"):
        for name in ("real/id1", "fake/swap [v2]/id2"):
            path = root / split / f"{name}_{split}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(str(path).encode())
    (root / "readme.txt").touch()
    return root


def test_scan_show_check(run, faces, tmp_path):
    scanned = run("scan", faces)
    assert read_manifest(tmp_path / "faces.parquet").height == 6
    assert "Left aside, not media: .txt 1" in scanned.stderr
    assert scanned.stdout.splitlines()[-1] == "Next: d2st cache build faces.parquet --cache faces.d2st"
    shown = run("show", "faces.parquet").stdout
    assert "swap [v2]" in shown, "brackets in names are no markup"
    counts = json.loads(run("show", "faces.parquet", "--json").stdout)
    assert counts["samples"] == 6
    assert {(row["split"], row["label"], row["samples"]) for row in counts["counts"]} == {
        (split, label, 1) for split in ("train", "val", "test") for label in (0, 1)
    }
    assert "nothing wrong" in run("check", "faces.parquet").stdout


def test_scan_with_leaks_says_so_and_check_exits_with_1(run, faces):
    scanned = run("scan", faces, "--identity", r"id(\d+)", "--out", "leaky.parquet")
    assert "2 identities are in two splits" in scanned.stderr
    assert scanned.stdout.splitlines()[-1] == "Next: d2st manifest check leaky.parquet"
    document = json.loads(run("check", "leaky.parquet", "--json", code=1).stdout)
    assert document["errors"] == 1
    assert document["findings"][0]["code"] == "identity_leak"
    assert document["findings"][0]["examples"] == ["faces/1 (test, train, val)", "faces/2 (test, train, val)"]
    assert "identity_leak" in run("check", "leaky.parquet", code=1).stdout


def test_scan_json_is_one_document(run, faces):
    document = json.loads(run("scan", faces, "--json", "--dataset", "set", "--split", "test").stdout)
    assert document["manifest"] == "faces.parquet"
    assert {row["dataset"] for row in document["counts"]} == {"set"}
    assert document["ignored"] == {".txt": 1}


def test_validate_looks_for_files_and_reports_a_broken_manifest(run, faces, tmp_path):
    run("scan", faces)
    assert run("check", "faces.parquet", "--root", faces).exit_code == 0
    next(faces.rglob("*.mp4")).unlink()
    assert (
        json.loads(run("check", "faces.parquet", "--root", faces, "--json", code=1).stdout)["findings"][0]["code"] == "missing"
    )
    (tmp_path / "text.parquet").write_text("text")
    assert json.loads(run("check", "text.parquet", "--json", code=1).stdout)["findings"][0]["code"] == "schema"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["scan", "nowhere"], ManifestError),
        (["scan", "faces", "--split", "holdout"], ConfigError),
        (["show", "none.parquet"], ManifestError),
        (["check", "none.parquet"], ManifestError),
    ],
)
def test_errors_are_raised_for_main_to_print(run, faces, arguments, error):
    with pytest.raises(error):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("command", ["scan", "show", "check"])
def test_help_ends_in_examples_one_a_line(run, command):
    text = run(command, "--help").stdout
    examples = re.findall(rf"^ +d2st manifest {command} \S.*$", text, re.MULTILINE)
    assert len(examples) >= 2, text


def test_scan_of_a_list_says_what_is_missing(run, faces, tmp_path):
    (tmp_path / "mine.csv").write_text("path,label,split\ntrain/real/id1_train.mp4,real,train\ngone.mp4,fake,train\n")
    scanned = run("scan", "mine.csv", "--root", faces)
    assert "Listed, but not on the disk: 1, such as gone.mp4" in scanned.stderr
    assert (tmp_path / "mine.missing.txt").read_text() == "gone.mp4\n"
    document = json.loads(run("scan", "mine.csv", "--root", faces, "--json").stdout)
    assert (document["layout"], document["samples"], document["missing"]) == ("table", 1, 1)
    run("scan", "mine.csv", "--out", "mine.csv", code=2)
    (tmp_path / "mine.csv").write_text("path,label,split\ntrain/real/id1_train.mp4,real,train\n")
    run("scan", "mine.csv", "--root", faces)
    assert not (tmp_path / "mine.missing.txt").exists()


def test_split_merge_export(run, faces, tmp_path):
    run("scan", faces, "--out", "a.parquet", "--identity", r"id(\d+)")
    run("check", "a.parquet", code=1)
    shown = run("split", "a.parquet", "--shares", "50,0,50").stdout
    assert "val" not in shown.split("data set", 1)[1]
    assert "identity_leak" not in run("check", "a.parquet").stdout
    few = run("split", "a.parquet", "--out", "few.parquet")  # two people for three splits
    assert "warning: " in few.stderr
    assert "got no sample" in few.stderr
    frames = tmp_path / "more" / "test" / "fake" / "gan" / "v"
    frames.mkdir(parents=True)
    for number in range(2):
        (frames / f"{number}.png").write_bytes(b"x")
    run("scan", "more", "--out", "b.parquet")
    run("merge", "a.parquet", "b.parquet", "--out", "all.parquet")
    assert read_manifest(tmp_path / "all.parquet").height == 7
    exported = run("export", "all.parquet", "--out", "all.json")
    assert "left out 6 videos" in exported.stderr
    assert list(json.loads((tmp_path / "all.json").read_text())) == ["more"]
    run("split", "a.parquet", "--shares", "1,2", code=2)
    run("merge", "a.parquet", "--out", "x.parquet", code=2)
