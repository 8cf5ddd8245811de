"""A run's folder as one record, whatever of it is there.

The decision that shaped it: a part that was never made (no evaluation yet, a stage that still trains, keys that older versions did not
write) is None or empty and the page says so; a part that is there and can't be read is an error, because a report that quietly leaves out
a damaged file would look complete.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.errors import RunError

__all__ = ["BEST", "Evaluation", "Record", "Stage", "gather"]

BEST = "best.safetensors"
_STAGE = re.compile(r"stage([0-9]+)")
_COLUMNS = ("sample_id", "dataset", "method", "label", "kind", "video_id", "score", "frames", "frame_scores")


@dataclass(frozen=True)
class Evaluation:
    """What `d2st eval` left: `name` of its folder, metrics.json as `summary`, predictions.parquet, and robustness.json or None."""

    name: str
    summary: Mapping[str, Any]
    predictions: pl.DataFrame
    robustness: Mapping[str, Any] | None


@dataclass(frozen=True)
class Stage:
    """One stage's folder.

    Attributes:
        recipe: text of recipe.toml, None when it is not there; so are `result` (the stage is not finished) and `samples`.
        environment, fingerprint: {} when they are not there.
        epochs: the lines of metrics.jsonl.
        evaluations: of one split, that of the training cache first.
    """

    number: int
    folder: Path
    recipe: str | None
    environment: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    result: Mapping[str, Any] | None
    epochs: tuple[Mapping[str, Any], ...]
    samples: pl.DataFrame | None
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Record:
    """A run. `shown` is the stage whose evaluation the page is about: the one asked for, else the highest that has one."""

    name: str
    folder: Path
    split: str
    stages: tuple[Stage, ...]
    shown: Stage

    @property
    def evaluation(self) -> Evaluation | None:
        return self.shown.evaluations[0] if self.shown.evaluations else None

    def eval_command(self, stage: Stage, options: str = "") -> str:
        """What to run for the evaluation of a stage, from the folder that holds the runs' own."""
        run = f"{self.folder.parent.name}/{self.name}/stage{stage.number}"
        return " ".join(filter(None, ("d2st eval", shlex.quote(run), f"--split {self.split}", options)))


def gather(run: Path, *, split: str) -> Record:
    """Read runs/NAME, runs/NAME/stageN (that stage is shown) or a file in one.

    Raises:
        RunError: there is no run, or a file of it is damaged.
    """
    place = (run.parent if run.is_file() else run).resolve()
    chosen = _STAGE.fullmatch(place.name)
    folder = place.parent if chosen else place
    numbers = sorted(
        int(found[1]) for path in folder.glob("stage*") if path.is_dir() and (found := _STAGE.fullmatch(path.name))
    )
    if not numbers or (chosen and int(chosen[1]) not in numbers):
        raise RunError(f"{run} is no run: it holds no stage", fix="Name runs/NAME or runs/NAME/stageN; `d2st train` makes them")
    stages = tuple(_stage(folder / f"stage{number}", number, split) for number in numbers)
    if chosen:
        shown = next(stage for stage in stages if stage.number == int(chosen[1]))
    else:
        shown = max(stages, key=lambda stage: (bool(stage.evaluations), stage.number))
    return Record(folder.name, folder, split, stages, shown)


def _stage(folder: Path, number: int, split: str) -> Stage:
    recipe, samples = folder / "recipe.toml", folder / "samples.parquet"
    places = [folder / f"eval-{split}", *sorted(folder.glob(f"eval-{split}-*"))]
    return Stage(
        number=number,
        folder=folder,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        environment=_document(folder / "environment.json") or {},
        fingerprint=_document(folder / "fingerprint.json") or {},
        result=_document(folder / "result.json"),
        epochs=_epochs(folder / "metrics.jsonl"),
        samples=_parquet(samples) if samples.is_file() else None,
        evaluations=tuple(_evaluation(place) for place in places if (place / "metrics.json").is_file()),  # written last
    )


def _evaluation(folder: Path) -> Evaluation:
    summary = _document(folder / "metrics.json") or {}
    predictions = _parquet(folder / "predictions.parquet")
    lacking = [name for name in _COLUMNS if name not in predictions.columns]
    lacking += [name for name in ("samples", "overall", "datasets", "methods") if name not in summary]
    if lacking:
        raise RunError(f"the evaluation in {folder} lacks {', '.join(lacking)}", fix="Run `d2st eval` again")
    return Evaluation(folder.name, summary, predictions, _robustness(folder))


def _robustness(folder: Path) -> dict[str, Any] | None:
    document = _document(folder / "robustness.json")
    if document is not None and (lacking := {"about", "samples", "clean", "perturbations"} - document.keys()):
        raise RunError(
            f"{folder / 'robustness.json'} lacks {', '.join(sorted(lacking))}",
            fix="Run `d2st eval --perturb` again, or remove it",
        )
    return document


def _document(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}", fix="Restore the file, or make it again") from error


def _epochs(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return tuple(json.loads(line) for line in lines[:-1] if line)  # what follows the last newline is being written
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}", fix="Restore the file, or remove it to do without its curves") from error


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path} is missing or damaged: {error}", fix="Run `d2st eval` again, or restore the file") from error
