"""Trackers are found by name, their packages are checked before any work, and nothing of them is imported unasked."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from d2st.adapter.train import run_training
from d2st.adapter.train.track import refuse_missing, tracker_names
from d2st.adapter.train.track.registry import find_opener
from d2st.cache.errors import ConfigError, UnknownNameError
from d2st.cli.train import Tracker

ROOT = Path(__file__).parents[4]


def test_each_has_an_opener_an_extra_and_a_choice_of_the_command():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in tracker_names():
        assert callable(find_opener(name))
        assert name in extras
    assert [choice.value for choice in Tracker] == tracker_names()


def test_unknown_name_lists_the_known():
    with pytest.raises(UnknownNameError, match="mlflow, tensorboard, wandb"):
        refuse_missing(["tensorboard", "comet"])


@pytest.mark.parametrize("name", tracker_names())
def test_missing_package_says_how_to_install_it(name, store, tmp_path, monkeypatch):
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)  # import raises ImportError
    with pytest.raises(ConfigError) as caught:
        run_training(store, runs=tmp_path / "runs", name="x", track=[name])
    assert caught.value.fix == f"pip install 'd2st[{name}]'"
    assert name in caught.value.message
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_that_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # W&B leaves one in the working directory
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="wandb"):
        refuse_missing(["wandb"])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def test_training_imports_no_tracker_unasked():
    code = "import sys, d2st.adapter.train.run; print([m for m in ('tensorboard', 'wandb', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
