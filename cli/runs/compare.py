"""`d2st runs compare`: what is set otherwise in some runs, and what came of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from d2st.cli.runs.detail import differences, stage_document, value_text
from d2st.cli.runs.options import Json, Runs
from d2st.cli.runs.read import find_run, read_run
from d2st.cli.runs.stages import StageRow

__all__ = ["compare"]


def compare(
    run: Annotated[list[str], typer.Argument(metavar="NAME NAME...", help="Runs, stages or trials, by name or path.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Put runs side by side.

    The settings that differ, then what was measured. A run is compared by its last finished stage.

    Whether a difference in AUC is more than chance, `d2st compare` tells.

    \b
    Examples:
      d2st runs compare faces linear-probe
      d2st runs compare faces/stage1 faces/stage2
      d2st runs compare first-sweep/trials/0007 first-sweep/trials/0012
    """
    from d2st.cache.errors import UsageError
    from d2st.cli.show import print_json, stdout, table

    if len(set(run)) < 2:
        raise UsageError("at least two different runs are compared", fix="Name two")
    stages = [_stage(name, runs) for name in run]
    documents = [stage_document(stage) for stage in stages]
    settings = _settings(documents)
    metrics = _metrics(documents)
    notes = _notes(run, stages)
    following = "d2st compare " + " ".join(stage.path.as_posix() for stage in stages)
    if as_json:
        print_json({"runs": run, "settings": settings, "metrics": metrics, "notes": notes, "next": following})
        return
    console = stdout()
    rows = [(key, *map(value_text, values)) for key, values in settings.items()]
    console.print(table("settings that differ" if rows else "no setting differs", ("key", *run), rows))
    console.print(table("measured", ("", *run), [(name, *map(_number, values)) for name, values in metrics.items()], right=run))
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"is a difference more than chance: {following}", markup=False, soft_wrap=True)


def _stage(name: str, runs: Path) -> StageRow:
    """The stage that speaks for a run; of a sweep, its winner's. Raises RunError when nothing was trained."""
    from d2st.cache.errors import RunError

    row = read_run(find_run(name, runs))
    if row is None or row.last is None:
        raise RunError(f"{name} holds no trained stage yet", fix="Name another run, or one of the sweep's trials")
    return row.last


def _settings(documents: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """key -> the value of each run, where they are not all the same."""
    recipes = [document["recipe"] or {} for document in documents]
    keys = {key for other in recipes[1:] for key in differences(recipes[0], other)}

    def at(tree: Any, key: str) -> Any:
        for name in key.split("."):
            tree = tree.get(name) if isinstance(tree, dict) else None
        return tree

    found = {key: [at(recipe, key) for recipe in recipes] for key in sorted(keys)}
    starts = [document["start"] or "scratch" for document in documents]
    return {**found, **({"started from": starts} if len(set(starts)) > 1 else {})}


def _metrics(documents: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """name -> the value of each run, None where a run has none."""
    results = [document["result"] for document in documents]
    found = {
        "val AUC": [result.get("value") for result in results],
        "best epoch": [result.get("best_epoch") for result in results],
        "parameters": [result.get("parameters") for result in results],
        "GFLOP a clip": [result.get("gflops") for result in results],
        "seconds": [result.get("seconds") for result in results],
    }
    kinds = {(split, kind) for document in documents for split, kinds in document["evaluations"].items() for kind in kinds}
    for split, kind in sorted(kinds):
        parts = [document["evaluations"].get(split, {}).get(kind, {}) for document in documents]
        for name in ("auc", "eer"):
            found[f"{split} {kind} {name.upper()}"] = [part.get(name) for part in parts]
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _notes(names: list[str], stages: list[StageRow]) -> list[str]:
    """Why metrics may not compare."""
    notes = [f"{name}: {stage.state}, {stage.note}" for name, stage in zip(names, stages, strict=True) if stage.note]
    notes += [f"{name}: labels were shuffled" for name, stage in zip(names, stages, strict=True) if stage.shuffled]
    known = [stage.data for stage in stages if stage.data]
    for place, what in enumerate(("caches", "manifests", "validation sets", "kinds of video or image")):
        if len({data[place] for data in known}) > 1:
            notes.append(f"validation AUCs do not compare: they are of different {what}")
            break
    return notes


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return "" if value is None else f"{value:,}"
