"""`d2st report` from the command line."""

import json

import pytest
import typer
from typer.testing import CliRunner

from d2st.cache.errors import RunError, StoreError
from d2st.cli.report import report

app = typer.Typer()
app.command()(report)


@pytest.fixture
def run(tmp_path):
    """A run of one stage that was not evaluated."""
    folder = tmp_path / "runs" / "tiny" / "stage1"
    folder.mkdir(parents=True)
    epoch = {"epoch": 1, "best_epoch": 1, "loss": 0.7, "val": {"loss": 0.6, "video_auc": 0.5}}
    (folder / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    return folder.parent


def test_writes_a_page_and_says_where(run):
    done = CliRunner().invoke(app, [str(run)])
    assert done.exit_code == 0, done.output
    page = run / "report-test.html"
    assert str(page) in done.stdout
    assert f"d2st eval {run / 'stage1'} --split test" in done.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_json_and_out(run, tmp_path):
    out = tmp_path / "elsewhere" / "page.html"
    done = CliRunner().invoke(app, [str(run), "--split", "val", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == {
        "report": str(out),
        "bytes": out.stat().st_size,
        "run": "tiny",
        "split": "val",
        "stage": 1,
        "evaluated": False,
    }


def test_a_cache_that_is_named_must_be_there(run, tmp_path):
    done = CliRunner().invoke(app, [str(run), "--cache", str(tmp_path / "typo.d2st")])
    assert isinstance(done.exception, StoreError)
    assert not (run / "report-test.html").exists()


def test_no_run_is_an_error(tmp_path):
    assert isinstance(CliRunner().invoke(app, [str(tmp_path)]).exception, RunError)
