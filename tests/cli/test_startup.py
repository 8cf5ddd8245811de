"""`d2st --help` and every command's help stay instant: they import nothing heavy; nor does a report."""

import json
import subprocess
import sys

HEAVY = ("torch", "polars", "zarr", "open_clip", "decord", "av", "cv2", "matplotlib")

RUN_MODULE = f"""
import json, runpy, sys
sys.argv = ["d2st", "--help"]
try:
    runpy.run_module("d2st", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""

REPORT = f"""
import json, sys
from d2st.cli.app import app

try:
    app(["report", sys.argv[1]])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {HEAVY} if name in sys.modules and name not in ("polars", "zarr")]), file=sys.stderr)
"""

WALK = f"""
import contextlib, io, json, sys
import typer
from d2st.cli.app import app

found = {{}}

def walk(command, name):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = command.main(args=["--help"], prog_name=name, standalone_mode=False)
    found[name] = {{
        "heavy": [module for module in {HEAVY} if module in sys.modules],
        "code": code or 0,
        "text": text.getvalue(),
        "group": bool(getattr(command, "commands", None)),
    }}
    for child, inner in getattr(command, "commands", {{}}).items():
        walk(inner, name + " " + child)

walk(typer.main.get_command(app), "d2st")
print(json.dumps(found))
"""


def python(code, *words):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)


def test_module_help_imports_nothing_heavy():
    done = python(RUN_MODULE)
    assert done.returncode == 0, done.stderr
    assert "d2st demo" in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_report_reads_a_run_without_torch(tmp_path):
    stage = tmp_path / "tiny" / "stage1"
    stage.mkdir(parents=True)
    (stage / "best.safetensors").write_bytes(b"weights")
    done = python(REPORT, str(tmp_path / "tiny"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "report-test.html").is_file()
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_every_command_has_instant_help_that_ends_in_examples():
    done = python(WALK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {
        "d2st manifest scan",
        "d2st cache build",
        "d2st train",
        "d2st eval",
        "d2st predict",
        "d2st demo",
        "d2st doctor",
    } <= set(found)
    for name, seen in found.items():
        assert seen["heavy"] == [], f"{name} --help imports {seen['heavy']}"
        assert seen["code"] == 0, name
        if not seen["group"]:
            lines = [line.strip() for line in seen["text"].splitlines()]
            assert any(line.startswith(name) for line in lines), f"{name} --help shows no example"
