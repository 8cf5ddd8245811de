"""What the files of one stage say, read without torch.

Whatever is missing, damaged or of another version becomes a row with a reason.
"""

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["STAGES", "StageRow", "epochs_of", "newest", "read_json", "read_stage", "stage_number"]

STAGES = (1, 2, 3)
SHOWN = ("metric", "seconds", "parameters", "train_samples")  # of a result, beside what a row takes from it


@dataclass(frozen=True)
class StageRow:
    """One trained stage.

    Attributes:
        state: finished, pruned, unfinished or damaged. note: why it is not finished.
        val: validation AUC of the best epoch, of the kind `metric`; test: the same of the test split, if it was evaluated.
        cache: name of the store. data: what makes metrics comparable: the cache's fingerprint, the samples, how many of them judged.
        when_s: of its end, or of its last sign of life, in seconds since 1970.
    """

    path: Path
    stage: int
    state: str
    note: str = ""
    adapter: str | None = None
    metric: str | None = None
    val: float | None = None
    test: float | None = None
    epochs: int = 0
    cache: str | None = None
    data: tuple[str | None, ...] = ()
    when_s: float | None = None
    shuffled: bool = False
    result: dict[str, Any] = field(default_factory=dict)


def read_stage(path: Path) -> StageRow:
    """A stage's folder as a row; never an error."""
    stage = stage_number(path)
    try:
        sources = read_json(path / "fingerprint.json") if (path / "fingerprint.json").is_file() else {}
        place = sources.get("cache_path")
        known: dict[str, Any] = {"cache": Path(place).name if place else None, "when_s": newest(path)}
        if not (path / "result.json").is_file():
            return _unfinished(path, known)
        result = read_json(path / "result.json")
        metric, *_ = (result[name] for name in SHOWN)
        return StageRow(
            path,
            stage,
            "pruned" if result["ended"] == "pruned" else "finished",
            adapter=result["adapter"],
            metric=metric,
            val=None if result["value"] is None else float(result["value"]),
            test=_test_auc(path, metric),
            epochs=result["epochs"],
            data=(result.get("fingerprint"), sources.get("manifest"), str(result["val_samples"]), metric),
            shuffled=bool(result.get("shuffled_labels")),
            result=result,
            **{**known, "when_s": result.get("finished_at_s", known["when_s"])},
        )
    except AttributeError:
        return StageRow(path, stage, "damaged", note="a file of it is not what d2st writes", when_s=newest(path))
    except (ValueError, KeyError, TypeError) as error:
        what = f"result.json lacks {error}" if isinstance(error, KeyError) else str(error)
        return StageRow(path, stage, "damaged", note=what, when_s=newest(path))


def stage_number(path: Path) -> int:
    """3 of .../stage3; 0 where it is no stage's folder."""
    return next((stage for stage in STAGES if path.name == f"stage{stage}"), 0)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document. Raises ValueError when it is missing, damaged, or no table."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is {'missing' if isinstance(error, FileNotFoundError) else 'damaged'}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is damaged")
    return found


def _unfinished(path: Path, known: dict[str, Any]) -> StageRow:
    """A stage that runs, was stopped, failed, or never came to anything."""
    stage = stage_number(path)
    try:
        recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return StageRow(path, stage, "unfinished", note="not begun", **known)
    except (OSError, ValueError) as error:
        raise ValueError("recipe.toml is damaged") from error
    epochs = epochs_of(path)
    last = epochs[-1] if epochs else {}
    note = f"epoch {len(epochs)} of {recipe.get('optim', {}).get('epochs', '?')}"
    if (path.parent / "failed.json").is_file():
        note = f"failed after {len(epochs)} epochs: {read_json(path.parent / 'failed.json').get('error', '')}"
    adapter = recipe.get("adapter", {}).get("name")
    metric = last.get("metric")
    return StageRow(
        path, stage, "unfinished", note=note, adapter=adapter, metric=metric, val=last.get("best"), epochs=len(epochs), **known
    )


def epochs_of(path: Path) -> list[dict[str, Any]]:
    """The records of a stage's metrics.jsonl; a torn last line is left out. Raises ValueError when it is damaged."""
    try:
        whole, _, _ = (path / "metrics.jsonl").read_text(encoding="utf-8").rpartition("\n")
        found = [json.loads(line) for line in whole.splitlines()]
        if not all(isinstance(record, dict) for record in found):
            raise ValueError("metrics.jsonl holds something else than records")
        return found
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ValueError("metrics.jsonl is damaged") from error


def _test_auc(path: Path, metric: str) -> float | None:
    """By video_id, of the test split's samples of the metric's kind; None where it was not evaluated, or an older checkpoint was."""
    found, best = path / "eval-test" / "metrics.json", path / "best.safetensors"
    if not found.is_file() or (best.is_file() and best.stat().st_mtime > found.stat().st_mtime):
        return None
    summary, kind = read_json(found), metric.removesuffix("_auc")
    scope = summary.get("overall", {}) if metric == "auc" else summary.get("kinds", {}).get(kind, {})
    value = scope.get("video", {}).get("auc")
    return float(value) if value is not None else None


def newest(path: Path) -> float | None:
    """When a file of a folder was last written."""
    return max((entry.stat().st_mtime for entry in os.scandir(path) if entry.is_file()), default=None)
