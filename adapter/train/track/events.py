"""From the trainer's events to points: which of them, under which names, at which step, and at most one step a second.

The step is counted over all epochs, so that the curves of a resumed run go on where they were.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from d2st.adapter.train.log import RunLog
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.rundir import RECIPE, stage_folder
from d2st.adapter.train.track.protocol import Outcome, Point, Stage
from d2st.adapter.train.track.registry import find_opener
from d2st.adapter.train.track.worker import Worker

__all__ = ["tracked"]

STEP_EVERY_S = 1.0
PLACE = {"event", "stage", "epoch", "epochs", "step", "steps", "done_epochs", "done_steps"}  # of an event: where, not what
Event = Callable[[dict[str, Any]], None]


@contextmanager
def tracked(names: Sequence[str], on_event: Event) -> Iterator[Event]:
    """Pass the trainer's events on to `on_event` and to trackers.

    Args:
        names: known trackers whose packages are there (`refuse_missing` has passed); a repeated name counts once.
        on_event: told of everything that the yielded function is told of, and of a note where a tracker begins or fails.

    Yields:
        The function to give to the trainer.
    """
    if not names:
        yield on_event
        return
    trackers = _Trackers(tuple(dict.fromkeys(names)), on_event)
    outcome: Outcome = "failed"
    try:
        yield trackers.take
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    finally:
        trackers.close(outcome, {})  # the stage that had no end, if there is one


class _Trackers:
    """The workers of the running stage."""

    def __init__(self, names: tuple[str, ...], on_event: Event) -> None:
        self._names, self._on_event = names, on_event
        self._workers: list[Worker] = []
        self._runs = Path()
        self._run = ""
        self._steps = 0  # in an epoch
        self._due_s = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """Pass on and track one event."""
        self._on_event(event)
        kind = event["event"]
        if kind == "run":
            self._run, self._runs = event["name"], Path(event["folder"]).parent
        elif kind == "start":
            self._start(event)
        elif kind == "step":
            now = time.monotonic()
            if now >= self._due_s:
                self._due_s = now + STEP_EVERY_S
                self._put("step", (event["epoch"] - 1) * event["steps"] + event["step"], _of_step(event))
        elif kind == "epoch":
            self._put("epoch", event["epoch"] * self._steps, _of_epoch(event))
        elif kind == "end":
            self.close("finished", _flat(event, without={"event", "stage"}))

    def close(self, outcome: Outcome, result: Mapping[str, Any]) -> None:
        """Close the stage's trackers, if any are open."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.finish(outcome, result)
        for worker in workers:
            worker.join()
            self._tell(worker)

    def _start(self, event: Mapping[str, Any]) -> None:
        folder = stage_folder(self._runs, self._run, event["stage"])
        recipe = load_recipe(folder / RECIPE)
        stage = Stage(
            run=self._run,
            number=event["stage"],
            folder=folder,
            step=event["done_epochs"] * event["steps"] + event["done_steps"],
            settings={**_flat(recipe.model_dump(mode="json"), separator="."), **_flat(event, separator=".", without=PLACE)},
        )
        self._steps, self._due_s = event["steps"], 0.0
        self._workers = [Worker(name, find_opener(name), stage) for name in self._names]
        for record in RunLog(folder).epochs():  # a tracker may be new to a resumed stage, or have missed the last one
            if record["epoch"] <= event["done_epochs"]:
                self._put("epoch", record["epoch"] * event["steps"], _of_epoch(record))

    def _put(self, kind: Literal["step", "epoch"], step: int, values: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items() if _is_number(value)}
        point = Point(kind=kind, step=step, time_s=time.time(), values=numbers)
        for worker in self._workers:
            self._tell(worker)
            worker.put(point)

    def _tell(self, worker: Worker) -> None:
        for message in worker.messages():
            self._on_event({"event": "note", "message": message})


def _of_step(event: Mapping[str, Any]) -> dict[str, Any]:
    return {f"step/{name}": value for name, value in _flat(event, without=PLACE).items()}


def _of_epoch(event: Mapping[str, Any]) -> dict[str, Any]:
    means = {name: event.get(name) for name in ("loss", "samples_per_s", "seconds")} | event.get("losses", {})
    return {f"train/{name}": value for name, value in means.items()} | _flat({"val": event.get("val", {})})


def _flat(tree: Mapping[str, Any], *, separator: str = "/", without: Collection[str] = ()) -> dict[str, Any]:
    """Nested tables as one, {"gap": {"before": 1}} -> {"gap/before": 1}; None is left out, and so are top keys in `without`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}{separator}{below}": item for below, item in _flat(value, separator=separator).items()}
        elif name not in without and value is not None:
            flat[name] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
