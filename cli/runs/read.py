"""What the files of runs and sweeps say, read without torch, a thousand runs in a second.

Whatever is missing, damaged or of another version becomes a row with a reason: a folder with one bad run must not hide the others.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2st.cache.errors import RunError
from d2st.cli.runs.stages import STAGES, StageRow, newest, read_json, read_stage, stage_number

__all__ = ["RunRow", "find_run", "read_run", "read_runs", "sweep_best"]


@dataclass(frozen=True)
class RunRow:
    """A run with its stages, or a sweep (`sweep` is its sweep.json, `summary` its outcome if it is over, `trials` how many ended)."""

    path: Path
    stages: tuple[StageRow, ...]
    size_bytes: int
    sweep: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None
    trials: int = 0
    note: str = ""
    touched_s: float = 0.0

    @property
    def last(self) -> StageRow | None:
        """The stage that speaks for the run: the highest one that is finished, else the highest."""
        finished = [row for row in self.stages if row.state == "finished"]
        return (finished or list(self.stages) or [None])[-1]

    @property
    def when_s(self) -> float:
        """Of the last sign of life."""
        return max([self.touched_s, *(row.when_s or 0.0 for row in self.stages)])


def read_runs(runs: Path) -> list[RunRow]:
    """All runs and sweeps in a folder, by name; what is neither is left out. Raises RunError when there is no such folder."""
    if not runs.is_dir():
        raise RunError(f"there is no folder {runs}", fix="Name it with --runs; `d2st train` makes it")
    return [row for path in sorted(runs.iterdir()) if path.is_dir() and (row := read_run(path)) is not None]


def find_run(name: str, runs: Path) -> Path:
    """The folder meant by a name in `runs`, or by a path; a stage's folder is one too. Raises RunError when there is none."""
    for path in (runs / name, Path(name)):
        if path.is_dir() and (_holds_run(path) or stage_number(path)):
            return path
    known = ", ".join(row.name for row in sorted(runs.iterdir()) if row.is_dir())[:300] if runs.is_dir() else ""
    raise RunError(
        f"there is no run {name!r} in {runs}", fix=f"There are: {known}" if known else "Name it with --runs, or by its path"
    )


def read_run(path: Path) -> RunRow | None:
    """One run or sweep; the run of a single stage when `path` is a stage's folder; None when it is neither."""
    if stage_number(path):
        return RunRow(path.parent, (read_stage(path),), _size(path))
    if not _holds_run(path):
        return None
    if (path / "sweep.json").is_file():
        return _read_sweep(path)
    return RunRow(path, tuple(read_stage(stage) for stage in _stage_folders(path)), _size(path))


def sweep_best(row: RunRow) -> tuple[int, float] | None:
    """A finished sweep's winner and its AUC: the mean over new seeds where there are any."""
    try:
        first = (row.summary or {})["finalists"][0]
        return int(first["trial"]), float(first["first"] if first["mean"] is None else first["mean"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _holds_run(path: Path) -> bool:
    return (path / "sweep.json").is_file() or any(True for _ in _stage_folders(path))


def _stage_folders(path: Path) -> Iterator[Path]:
    return (path / f"stage{stage}" for stage in STAGES if (path / f"stage{stage}").is_dir())


def _read_sweep(path: Path) -> RunRow:
    trials = sorted((path / "trials").iterdir()) if (path / "trials").is_dir() else []
    ended = sum(
        (trial / "failed.json").is_file() or any((stage / "result.json").is_file() for stage in _stage_folders(trial))
        for trial in trials
    )
    try:
        sweep = read_json(path / "sweep.json")
        summary = read_json(path / "summary.json") if (path / "summary.json").is_file() else None
        winner = RunRow(path, (), 0, summary=summary)
        found = sweep_best(winner)
        known = [path / "trials" / f"{found[0]:04d}"] if found else trials
        stages = [read_stage(stage) for trial in known for stage in _stage_folders(trial)]
        stages = sorted(stages, key=lambda stage: -1.0 if stage.val is None else stage.val)[-1:]
        note = f"{ended} of {sweep['trials']} trials have ended"
        if summary:  # unless more trials were asked for since
            known_trials = sum(summary["trials"].values())
            note = f"{note}; the outcome is of the first {known_trials}" if len(trials) > known_trials else ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return RunRow(path, (), _size(path), sweep={}, trials=ended, note=f"damaged: {error}", touched_s=newest(path) or 0.0)
    return RunRow(path, tuple(stages), _size(path), sweep, summary, ended, note, touched_s=newest(path) or 0.0)


def _size(path: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # a run that writes just now
                continue
    return total
