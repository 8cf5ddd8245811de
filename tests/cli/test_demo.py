"""The demo in small: the whole way, its closing table, and that a second run reuses everything."""

import functools
import json

import pytest
from typer.testing import CliRunner

from d2st.cli import demo
from d2st.cli.app import app
from d2st.pipeline import corpus
from d2st.pipeline.build import estimate, probe
from d2st.pipeline.corpus import plan

# samples an identity: real videos, fakes of each video method, real pictures, fakes of each picture method
RATES = {"train": (2, 1, 2, 2), "val": (1, 1, 1, 1), "test": (2, 0.5, 2, 1)}


@pytest.fixture(autouse=True)
def small(monkeypatch, unplotted):
    """Six people in few takes, six frames a clip, an epoch a stage, and a plan that guesses from four files of a kind."""
    monkeypatch.setattr(corpus, "make_corpus", functools.partial(corpus.make_corpus, identities=6, workers=1))
    monkeypatch.setattr(plan, "_RATES", RATES)
    monkeypatch.setattr(probe, "FILES_A_KIND", 4)
    monkeypatch.setattr(estimate, "ENCODE_S", 0.1)
    monkeypatch.setattr(demo, "FRAMES", 6)
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
    assert (stage / "eval-test" / "plots" / "roc.png").is_file()
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
