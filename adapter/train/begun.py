"""A stage between its plan and its first step, and after its last: the parts that run, what is written down, the result.

Whoever walks through the epochs, `fit` alone or a sweep with many stages at once, begins and ends each stage by these two functions.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import nn

from d2st.adapter.nets import clip_flops, count_parameters
from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.exchange import alike, from_first, same_weights
from d2st.adapter.train.fit import Keeper
from d2st.adapter.train.gaps import gap_after, gap_before
from d2st.adapter.train.log import gap_line
from d2st.adapter.train.plan import Plan
from d2st.adapter.train.prepare import checkpoint_name, make_network, make_trainer
from d2st.adapter.train.ranks import Ranks
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import load_recipe, to_toml
from d2st.adapter.train.result import StageResult, read_result, write_result
from d2st.adapter.train.select import to_rows
from d2st.adapter.train.trainer import BatchSource, Event, Progress, Trainer
from d2st.adapter.train.validate import choose_metric
from d2st.adapter.train.whiten import fit_whitening
from d2st.cache import Store
from d2st.cache.files import atomic_file, write_atomic

__all__ = ["Begun", "about_new_stages", "begin_stage", "end_stage"]

ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Begun:
    """A stage that may take its next step.

    Attributes:
        metric: the key of `validate`'s result to choose by. facts: for its result. gap: of stage 3, before its first step.
    """

    plan: Plan
    run_dir: Path
    trainer: Trainer
    progress: Progress
    keeper: Keeper
    metric: str
    facts: dict[str, Any]
    gap: dict[str, float | None] | None


def begin_stage(
    store: Store,
    plan: Plan,
    *,
    run_dir: Path,
    init_checkpoint: Path | None,
    device: str,
    ranks: Ranks,
    on_event: Event,
    open_source: Callable[[nn.Module], BatchSource],
    whitener: Callable[..., None] = fit_whitening,
) -> Begun:
    """Make a stage ready for its next step: the first one, or where `run_dir` has come to; arguments and errors as in `train_stage`.

    Args:
        open_source: gives what streams batches for a network; closing it is the caller's.
        whitener: called as `fit_whitening`.
    """
    stage, going_on = plan.recipe.stage, rundir.is_begun(run_dir)
    start = None if going_on else init_checkpoint
    with alike(ranks):
        for message in (*plan.notes, *(_about_start(start, plan) if start else ())):
            on_event({"event": "note", "message": f"stage {stage}: {message}"})
        detector, init = make_network(store, plan, device=device, init_checkpoint=start)
        source = open_source(detector)
        if start is None and ranks.first and not going_on:
            whitener(detector.adapter, source, to_rows(plan.selection.train), seed=plan.recipe.seed)
        if going_on:
            init = rundir.read_json(run_dir / rundir.FINGERPRINT)["init"]
    same_weights(ranks, detector)
    trainer = make_trainer(store, plan, detector, source, device=device, ranks=ranks, on_event=on_event)
    keeper = Keeper(run_dir, {**plan.meta, "init": init}, store.tokens.stats, store.tokens.calibration, writes=ranks.first)
    with alike(ranks):
        if going_on and (other := _other_precision(run_dir, trainer)):
            on_event({"event": "note", "message": f"stage {stage}: {other}"})
        if not going_on and ranks.first:
            _write_surroundings(store, plan, run_dir, trainer, init=init, device=device)
        progress = keeper.restore(trainer) if going_on else Progress()
    metric, size = choose_metric(plan.selection.val), {key: plan.meta[key] for key in ("layers", "channels", "grid")}
    facts = {
        "stage": stage,
        "adapter": plan.recipe.adapter.name,
        "metric": metric,
        "train_samples": plan.selection.train.height,
        "val_samples": plan.selection.val.height,
        "parameters": count_parameters(trainer.detector),
        "gflops": clip_flops(trainer.detector, **size, frames=plan.meta["clip_frames"]) / 1e9,
        "precision": trainer.precision,
        "ranks": ranks.size,
        "init": init,
    }
    keeper.say(", ".join(f"{key} {value}" for key, value in facts.items()))
    planned = {"steps": plan.steps, "epochs": plan.recipe.optim.epochs}
    on_event({"event": "start", **facts, **planned, "done_epochs": progress.epoch, "done_steps": progress.step})
    with alike(ranks):
        before = gap_before(trainer, plan.selection, run_dir, going_on=going_on)
    return Begun(plan, run_dir, trainer, progress, keeper, metric, facts, before)


def end_stage(begun: Begun, ended: str, *, on_event: Event) -> StageResult:
    """Write the result of a stage of which at least one epoch is done; `ended` says why it is the last."""
    plan, trainer, ranks = begun.plan, begun.trainer, begun.trainer.ranks
    with alike(ranks):
        gap = gap_after(trainer, plan.selection, begun.run_dir, begun.gap)
    if gap:
        begun.keeper.say(gap_line(gap["before"], gap["after"]))
    labels = {"fingerprint": plan.sources["cache"], "shuffled_labels": plan.recipe.data.shuffle_labels}
    labels |= {"views": plan.sources["views"]} if "views" in plan.sources else {}
    if ranks.first:
        write_result(begun.run_dir, {**begun.facts, **labels, "ended": ended, "gap": gap}, begun.progress)
    result = from_first(ranks, read_result(begun.run_dir) if ranks.first else None)
    on_event({"event": "end", **{key: value for key, value in asdict(result).items() if key != "best"}})
    return result


def about_new_stages(recipes: Mapping[int, Recipe], folders: Mapping[int, Path]) -> str | None:
    """What to tell where the begun stages of a run were changed and the others, asked for no change, take the recipes as they come."""
    new = [str(stage) for stage in recipes if not (folders[stage] / rundir.RECIPE).is_file()]
    if not new or all(recipe == load_recipe(stage) for stage, recipe in recipes.items() if str(stage) not in new):
        return None
    return (
        f"stage {' and '.join(new)} will begin without what this run was begun with: give --set and the like again to repeat it"
    )


def _about_start(path: Path, plan: Plan) -> list[str]:
    """What the user should know of the weights that a stage starts from."""
    said, sources = [], path.parent / rundir.FINGERPRINT
    name = checkpoint_name(path)
    if checkpoint.read_meta(path).get("fingerprint") != plan.meta["fingerprint"]:
        said.append(f"{name} was trained on token maps of another fingerprint")
    if sources.is_file() and rundir.read_json(sources).get("manifest") != plan.sources["manifest"]:
        said.append(f"{name} was trained on another manifest: its samples, labels or splits differ from these")
    return said


def _other_precision(run_dir: Path, trainer: Trainer) -> str | None:
    """What to say where "auto" means another precision here than where the stage began, and so other weights."""
    began = rundir.read_json(run_dir / ENVIRONMENT).get("precision", trainer.precision)
    if began == trainer.precision:
        return None
    return (
        f"begun in {began}, goes on in {trainer.precision}, which this processor is best at; the weights will differ a little"
    )


def _path_to(store: Store, run_dir: Path) -> str | None:
    """Where the cache lies as seen from the run, so that `eval` finds it; None across Windows drives, where no relative path exists."""
    try:
        return Path(os.path.relpath(store.path.resolve(), run_dir.resolve())).as_posix()
    except ValueError:
        return None


def _write_surroundings(store: Store, plan: Plan, run_dir: Path, trainer: Trainer, *, init: str | None, device: str) -> None:
    rundir.open_stage(run_dir)
    write_atomic(run_dir / rundir.RECIPE, to_toml(plan.recipe).encode())
    surroundings = {**rundir.environment(device), "precision": trainer.precision, "ranks": trainer.ranks.size}
    rundir.write_json(run_dir / ENVIRONMENT, surroundings)
    rundir.write_json(run_dir / "mix.json", {"strata": plan.selection.mix.to_dicts()})
    chosen = pl.concat([plan.selection.train, plan.selection.val]).select("sample_id", "dataset", "split", "kind", "label")
    with atomic_file(run_dir / "samples.parquet") as file:
        chosen.sort("sample_id").write_parquet(file)
    sources = {**plan.sources, "init": init, "cache_path": _path_to(store, run_dir)}
    rundir.write_json(run_dir / rundir.FINGERPRINT, sources)  # last: where it is, the rest is
