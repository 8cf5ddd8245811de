"""The calls that W&B gets, by a module with the surface of wandb 0.31 that is used."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from d2st.adapter.train.track.protocol import Point, Stage
from d2st.adapter.train.track.wandb import open_tracker


@pytest.fixture
def wandb(monkeypatch):
    made = ModuleType("wandb")
    made.inits, made.logs, made.finished = [], [], []

    def init(*, project, id, resume, name, group, job_type, dir, config, mode, settings):
        made.inits.append(locals())
        offline = mode == "offline"
        made.summary = {}
        return SimpleNamespace(
            offline=offline,
            url=None if offline else "https://wandb.ai/me/d2st/runs/1",
            log=lambda values, *, step: made.logs.append((step, values)),
            finish=lambda *, exit_code: made.finished.append(exit_code),
            summary=made.summary,
        )

    made.init = init
    made.Settings = lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", made)
    requests = ModuleType("requests.utils")
    requests.get_netrc_auth = lambda url: None
    monkeypatch.setitem(sys.modules, "requests.utils", requests)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return made


def a_stage(tmp_path, *, step=0):
    folder = tmp_path / "faces" / "stage2"
    folder.mkdir(parents=True, exist_ok=True)
    return Stage(run="faces", number=2, folder=folder, step=step, settings={"optim.lr": 0.1, "data.kinds": ["video"]})


def point(step, kind="step", **values):
    return Point(kind=kind, step=step, time_s=0.0, values=values)


def test_offline_unless_there_is_a_key(wandb, tmp_path, monkeypatch):
    tracker = open_tracker(a_stage(tmp_path))
    told = wandb.inits[0]
    assert (told["mode"], told["project"], told["group"], told["name"]) == ("offline", "d2st", "faces", "faces-stage2")
    assert told["dir"] == str(tmp_path / "faces" / "stage2")
    assert told["config"] == {"optim.lr": 0.1, "data.kinds": ["video"]}
    assert tracker.view.startswith("wandb sync ")
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    assert open_tracker(a_stage(tmp_path)).view == "https://wandb.ai/me/d2st/runs/1"
    assert (wandb.inits[1]["mode"], wandb.inits[1]["resume"]) == (None, "allow")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    open_tracker(a_stage(tmp_path))
    assert (wandb.inits[2]["mode"], wandb.inits[2]["project"]) == (None, "mine")


def test_a_resumed_stage_goes_on_in_the_same_run_and_doubles_nothing(wandb, tmp_path):
    first = open_tracker(a_stage(tmp_path))
    first.log([point(1, loss=3.0), point(5, loss=2.0), point(5, "epoch", auc=0.5)])
    first.close("stopped", {})
    second = open_tracker(a_stage(tmp_path, step=2))
    second.log([point(4, loss=2.1), point(6, loss=1.0), point(10, "epoch", auc=0.6)])
    second.close("finished", {"value": 0.6, "gap/before/centroid_real": 0.1})
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"]
    assert wandb.logs == [(1, {"loss": 3.0}), (5, {"loss": 2.0}), (5, {"auc": 0.5}), (6, {"loss": 1.0}), (10, {"auc": 0.6})]
    assert wandb.finished == [1, 0]
    assert wandb.summary == {"result/value": 0.6, "result/gap/before/centroid_real": 0.1}
