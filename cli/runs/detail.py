"""All that the files of one stage say of it: what `show` and `compare` are made from."""

from pathlib import Path
from typing import Any

from d2st.cli.runs.stages import StageRow, epochs_of, read_json

__all__ = ["differences", "stage_document", "value_text"]


def stage_document(stage: StageRow) -> dict[str, Any]:
    """All that is known of a stage; what can't be read is a note."""
    from d2st.adapter.train.recipe_file import load_recipe
    from d2st.cache.errors import D2stError

    found: dict[str, Any] = {"path": stage.path.as_posix(), "stage": stage.stage, "state": stage.state, "note": stage.note}
    found |= {"adapter": stage.adapter, "cache": stage.cache, "when_s": stage.when_s, "shuffled_labels": stage.shuffled}
    for name in ("fingerprint", "environment"):
        try:
            found[name] = read_json(stage.path / f"{name}.json")
        except ValueError:
            found[name] = {}
    found["result"] = stage.result
    found["start"] = stage.result.get("init") or found["fingerprint"].get("init")
    try:
        found["epochs"] = epochs_of(stage.path)
    except ValueError as error:
        found["epochs"], found["note"] = [], f"{stage.note} {error}".strip()
    found["evaluations"] = _evaluations(stage.path)
    try:
        recipe = load_recipe(stage.path / "recipe.toml")
        found["recipe"] = recipe.model_dump(mode="json")
        found["differences"] = differences(load_recipe(recipe.stage).model_dump(mode="json"), found["recipe"])
    except D2stError as error:
        found |= {"recipe": None, "differences": None, "note": f"{found['note']} {error.message}".strip()}
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    """key -> [value in one, value in the other] where they differ; None where there is none."""
    from d2st.cache.fingerprint import differing_fields

    def at(tree: Any, key: str) -> Any:
        for name in key.split("."):
            tree = tree.get(name) if isinstance(tree, dict) else None
        return tree

    return {key: [at(one, key), at(other, key)] for key in differing_fields(one, other)}


def _evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """split -> "image" or "video" -> auc by video_id, its interval and eer, of each `d2st eval` of the stage's own cache."""
    found: dict[str, dict[str, Any]] = {}
    for split in ("val", "test"):
        try:
            kinds = read_json(path / f"eval-{split}" / "metrics.json").get("kinds", {})
        except ValueError:
            continue
        found[split] = {
            kind: {"auc": part.get("auc"), "interval": part.get("intervals", {}).get("auc"), "eer": part.get("eer")}
            for kind, part in ((kind, scope["video"]) for kind, scope in kinds.items())
        }
    return found


def value_text(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unset" if value is None else str(value)
