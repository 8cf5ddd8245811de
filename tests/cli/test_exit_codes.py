"""Exit codes of the whole command: 0 done, 1 a clear error, 2 a command line that is wrong whatever the files hold, 130 interrupted."""

import sys

import pytest

from d2st.cache.errors import ConfigError, D2stError, RunError, UnknownNameError, UsageError
from d2st.cli import app as root
from d2st.cli import main

TOY = ("cache", "build", "faces.parquet", "--cache", "faces.d2st", "--backbone", "d2st-demo", "--pretrained", "random:0")


def exit_code(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["d2st", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (D2stError("x"), 1),
        (ConfigError("x"), 1),
        (RunError("x"), 1),
        (UsageError("x", fix="do y"), 2),
        (UnknownNameError("adapter", "x", ["a"]), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_of_each_error(monkeypatch, capsys, raised, code):
    def fail(**options):
        raise raised

    monkeypatch.setattr(root, "app", fail)
    assert exit_code(monkeypatch) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    if isinstance(raised, D2stError):
        assert said.err.startswith(f"error: {raised.message}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["manifest", "scan", "media", "--out", "faces.csv"], "name it .parquet"),
        (["manifest", "scan", "media", "--split", "dev"], "Use one of train, val, test"),
        (["cache", "build", "faces.parquet", "--cache", "faces.d2st", "--sampling", "first"], "Use even or clip"),
        (["cache", "build", "faces.parquet", "--cache", "faces.d2st", "--detector", "eyes"], "face detector named 'eyes'"),
        (["cache", "build", "faces.parquet", "--cache", "faces.d2st", "--device", "gpu"], "Use auto, cpu, cuda or cuda:N"),
        (["manifest", "scan", "media", "--identity", "("], "is not a regular expression"),
        ([*TOY, "--layers", "99"], "Use last, four, all"),
        ([*TOY, "--layers", "0", "--dtype", "int4"], "Use one of float16, bfloat16, int8"),
        ([*TOY, "--layers", "0", "--precision", "fp8"], "Use one of fp32, bf16"),
        ([*TOY[:-1], "random:x"], "Use random:SEED"),
        (["predict", "a.jpg", "--null"], "Add -, or leave --null out"),
    ],
)
def test_wrong_usage_writes_nothing(monkeypatch, capsys, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    for kind in ("real", "fake"):
        (tmp_path / "media" / kind).mkdir(parents=True)
        (tmp_path / "media" / kind / "a.jpg").write_bytes(b"jpg")
    assert exit_code(monkeypatch, "manifest", "scan", "media", "--out", "faces.parquet") == 0
    before = set(tmp_path.rglob("*"))
    capsys.readouterr()
    assert exit_code(monkeypatch, *arguments) == 2
    assert says in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before
