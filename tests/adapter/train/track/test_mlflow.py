"""The calls that MLflow gets, by modules with the surface of mlflow 3.17 that is used."""

import re
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import pytest

from d2st.adapter.train.track.mlflow import open_tracker
from d2st.adapter.train.track.protocol import Point, Stage

NAME = re.compile(r"^[/\w.\- :]*$")  # what MLflow takes
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")
RunTag = namedtuple("RunTag", "key value")


@pytest.fixture
def server(monkeypatch):
    """Everything that MLflow was told, over all clients."""
    made = SimpleNamespace(addresses=[], experiments={}, runs=[], metrics=[], params=[], tags=[], status=[])

    class MlflowClient:
        def __init__(self, *, tracking_uri):
            made.addresses.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id=made.experiments[name]) if name in made.experiments else None

        def create_experiment(self, name):
            made.experiments[name] = str(len(made.experiments) + 1)
            return made.experiments[name]

        def create_run(self, experiment_id, *, run_name, tags):
            made.runs.append((experiment_id, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(made.runs)}"))

        def log_batch(self, run_id, metrics=(), params=(), tags=()):
            assert len(metrics) <= 1000
            assert all(NAME.match(item.key) for item in (*metrics, *params, *tags))
            made.metrics += metrics
            made.params += params
            made.tags += tags

        def update_run(self, run_id, *, status):
            made.status.append((run_id, status))

        set_terminated = update_run

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.MlflowClient = MlflowClient
    entities.Metric, entities.Param, entities.RunTag = Metric, Param, RunTag
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return made


def a_stage(tmp_path):
    folder = tmp_path / "runs" / "faces" / "stage3"
    folder.mkdir(parents=True, exist_ok=True)
    return Stage(run="faces", number=3, folder=folder, step=0, settings={"optim.lr": 0.1, "data.mix.dataset.FF++": 2.0})


def point(step, kind="step", **values):
    return Point(kind=kind, step=step, time_s=7.5, values=values)


def test_a_database_beside_the_runs_unless_there_is_a_server(server, tmp_path, monkeypatch):
    tracker = open_tracker(a_stage(tmp_path))
    assert server.addresses == [f"sqlite:///{(tmp_path / 'runs' / 'mlflow.db').as_posix()}"]
    assert server.addresses[0] in tracker.view
    assert server.runs == [("1", "faces/stage3")]
    assert server.params == [("optim.lr", "0.1"), ("data.mix.dataset.FF__", "2.0")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    (tmp_path / "runs" / "faces" / "stage3" / "mlflow.json").unlink()
    assert open_tracker(a_stage(tmp_path)).view == "http://server:5000"
    assert set(server.experiments) == {"d2st", "mine"}


def test_a_resumed_stage_goes_on_in_the_same_run_and_doubles_nothing(server, tmp_path):
    first = open_tracker(a_stage(tmp_path))
    first.log([point(step, loss=float(step)) for step in range(1, 1503)])
    first.close("stopped", {})
    second = open_tracker(a_stage(tmp_path))
    second.log([point(1502, loss=0.0), point(1503, loss=1503.0), point(1503, "epoch", auc=0.5)])
    second.close("finished", {"value": 0.5, "ended": "all epochs"})
    assert len(server.runs) == 1
    assert [metric.step for metric in server.metrics if metric.key == "loss"] == list(range(1, 1504))
    assert server.metrics[0] == ("loss", 1.0, 7500, 1)
    assert {metric.key: metric.value for metric in server.metrics[-2:]} == {"auc": 0.5, "result/value": 0.5}
    assert server.tags == [("result.ended", "all epochs")]
    assert [status for _, status in server.status] == ["KILLED", "RUNNING", "FINISHED"]
    assert len(server.params) == 2
