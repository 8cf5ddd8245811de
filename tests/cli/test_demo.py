"""The demo in small: the whole way, its closing table, and that a second run reuses everything."""

import functools
import json

import pytest
from typer.testing import CliRunner

from d2st.cli import demo
from d2st.cli.app import app
from d2st.pipeline import corpus


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Six people and an epoch a stage."""
    monkeypatch.setattr(corpus, "make_corpus", functools.partial(corpus.make_corpus, identities=6))
    monkeypatch.setattr(demo, "OVERRIDES", ("optim.epochs=1", "stage2.optim.batch_size=8", "stage3.optim.batch_size=8"))


def test_the_whole_way_twice(tmp_path):
    folder = tmp_path / "demo"
    first = CliRunner().invoke(app, ["demo", "--dir", str(folder), "--device", "cpu"])
    assert first.exit_code == 0, first.exception
    for words in ("Test AUC", "linear probe", "shuffled labels", "video: flicker", "unseen", "random weights", "synthetic"):
        assert words in first.stdout, words
    assert "unseen_swap.mp4" in first.stdout
    for split in ("validation", "test"):
        assert f"{split}, before and after stage 3: modality gap: centroids real" in first.stdout
    stage = folder / "runs" / "demo" / "stage3"
    assert (stage / "eval-test" / "plots" / "roc.png").stat().st_size > 1000
    masks_are_no_samples = json.loads((folder / "runs" / "demo" / "stage1" / "fingerprint.json").read_text())
    assert masks_are_no_samples["cache_path"] == "../../../faces.d2st"

    weights = (stage / "best.safetensors").read_bytes()
    again = CliRunner().invoke(app, ["demo", "--dir", str(folder), "--device", "cpu", "--json"])
    assert again.exit_code == 0, again.exception
    document = json.loads(again.stdout)
    assert set(document["test"]) == {"stage 1", "stage 2", "stage 3", "linear probe", "shuffled labels"}
    assert len(document["predictions"]) == 2
    assert document["gap"]["test"]["after"] == document["test"]["stage 3"]["gap"]
    assert set(document["gap"]["validation"]) == {"before", "after"}
    assert "all there already" in again.stderr
    assert "all cached already" in again.stderr
    assert "is finished already" in again.stderr
    assert (stage / "best.safetensors").read_bytes() == weights
