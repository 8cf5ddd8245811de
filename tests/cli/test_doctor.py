"""`d2st doctor`: it shows what works, and it survives what is broken."""

import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from d2st.cli import doctor as module
from d2st.cli.checks.check import Check, attempt
from d2st.cli.doctor import diagnose, doctor

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(scope="module")
def found():
    return {check.name: check for check in diagnose()}


def test_everything_works_in_the_test_environment(found):
    assert {name: check for name, check in found.items() if check.status == "problem"} == {}
    assert found["python"].detail == sys.version.split()[0]
    assert "8 frames" in found["h264 encode"].detail
    assert {
        "torch",
        "device",
        "h264 decode, av",
        "h264 decode, decord",
        "crc32c",
        "zarr store",
        "face detector",
        "disk",
    } <= set(found)


def test_no_line_says_where_it_runs(found):
    text = json.dumps([check.detail for check in found.values()])
    assert sys.prefix not in text, "a bug report must not carry local paths"


@pytest.fixture
def only(monkeypatch):
    def choose(*groups):
        monkeypatch.setattr(module, "GROUPS", groups)

    return choose


def shadow(tmp_path, monkeypatch, name, code):
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_failing_import_is_shown_with_a_fix(tmp_path, monkeypatch, only):
    shadow(tmp_path, monkeypatch, "safetensors", "raise ImportError('libfoo.so.1: no such file')")
    only("packages")
    checks = {check.name: check for check in diagnose()}
    assert checks["safetensors"].status == "problem"
    assert "libfoo.so.1" in checks["safetensors"].detail
    assert "pip install" in checks["safetensors"].fix
    assert checks["pydantic"].status == "ok", "the others are still looked at"


def test_decord_is_not_essential(tmp_path, monkeypatch, only):
    shadow(tmp_path, monkeypatch, "decord", "raise OSError('wrong ELF class')")
    only("media")
    checks = {check.name: check.status for check in diagnose()}
    assert checks["h264 decode, decord"] == "warning"
    assert checks["h264 decode, av"] == "ok"


def test_group_that_dies_keeps_its_lines(tmp_path, monkeypatch, only):
    shadow(tmp_path, monkeypatch, "awscrt", "import os; os.abort()")
    only("packages", "system")
    checks = diagnose()
    assert [check.name for check in checks[:3]] == ["polars", "zarr", "numcodecs"] or checks[0].name == "polars"
    broken = next(check for check in checks if check.name == "packages checks")
    assert broken.status == "problem"
    assert "ended with code" in broken.detail
    assert "python" in {check.name for check in checks}, "the next group still runs"


def test_group_that_hangs_is_ended(tmp_path, monkeypatch, only):
    shadow(tmp_path, monkeypatch, "polars", "import time; time.sleep(60)")
    only("packages")
    (check,) = diagnose(timeout_s=1.0)
    assert "did not end within 1 s" in check.detail


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warning", 0), ("problem", 1)])
def test_exit_code_and_json(monkeypatch, status, code):
    monkeypatch.setattr(module, "diagnose", lambda: [Check("thing", status, "detail [x]", "mend it")])
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout)["checks"] == [
        {"name": "thing", "status": status, "detail": "detail [x]", "fix": "mend it"}
    ]
    plain = CliRunner().invoke(app, [])
    assert plain.exit_code == code
    assert "detail [x]" in plain.stdout
    assert "fix: mend it" in plain.stdout


def test_attempt_turns_any_error_into_a_line():
    def fail():
        raise RuntimeError("first line\nsecond line")

    assert attempt("x", fail, fix="f") == Check("x", "problem", "RuntimeError: first line second line", "f")
