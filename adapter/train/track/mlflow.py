"""MLflow: one MLflow run a stage, in the experiment "d2st".

Without MLFLOW_TRACKING_URI they go to mlflow.db beside the runs: SQLite is what MLflow uses by itself since 3.7, and its store of plain
files refuses to open (mlflow.org/docs/latest/self-hosting/architecture/backend-store). MLFLOW_EXPERIMENT_NAME chooses another experiment.
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d2st.adapter.train.track.memory import Memory
from d2st.adapter.train.track.protocol import Outcome, Point, Stage

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["open_tracker"]

STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
DATABASE = "mlflow.db"


def open_tracker(stage: Stage) -> "_Mlflow":
    """A new MLflow run, or the one that this stage had before it was stopped."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    for name in ("mlflow.store.db.utils", "alembic"):  # they tell of every table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    runs, wanted = stage.folder.parents[1], os.environ.get("MLFLOW_TRACKING_URI")
    address = wanted or f"sqlite:///{(runs / DATABASE).as_posix()}"
    client, memory = MlflowClient(tracking_uri=address), Memory(stage.folder / "mlflow.json")
    if memory.id is None:
        run = client.create_run(_experiment(client), run_name=f"{stage.run}/stage{stage.number}", tags={"d2st.run": stage.run})
        memory.keep_id(run.info.run_id)
        client.log_batch(memory.id, params=[Param(_key(name), str(value)) for name, value in stage.settings.items()])
    else:
        client.update_run(memory.id, status="RUNNING")
    return _Mlflow(client, memory, view=address if wanted else f"mlflow ui --backend-store-uri {address}")


class _Mlflow:
    def __init__(self, client: "MlflowClient", memory: Memory, *, view: str) -> None:
        self.view = view
        self._client, self._memory = client, memory

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_key(name), value, int(point.time_s * 1000), point.step)
            for point in self._memory.new(points)
            for name, value in point.values.items()
        ]
        for first in range(0, len(metrics), 1000):  # the most that one call may bring
            self._client.log_batch(self._memory.id, metrics=metrics[first : first + 1000])

    def close(self, outcome: Outcome, result: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, RunTag

        numbers, now_ms = (
            {name: value for name, value in result.items() if isinstance(value, int | float)},
            int(time.time() * 1000),
        )
        self._client.log_batch(
            self._memory.id,
            metrics=[Metric(f"result/{name}", float(value), now_ms, 0) for name, value in numbers.items()],
            tags=[RunTag(f"result.{name}", str(value)) for name, value in result.items() if name not in numbers],
        )
        self._client.set_terminated(self._memory.id, status=STATUS[outcome])


def _key(name: str) -> str:
    """A name as MLflow takes it; the data set FF++ becomes FF__."""
    return re.sub(r"[^\w/. :-]", "_", name)


def _experiment(client: "MlflowClient") -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "d2st"
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)
