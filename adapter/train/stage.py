"""One stage, from a store and a recipe to a run directory. All that can be wrong with either is found before the directory is made."""

import json
from pathlib import Path

import polars as pl
from torch import nn

from d2st.adapter.train import rundir
from d2st.adapter.train.begun import begin_stage, end_stage
from d2st.adapter.train.exchange import alike
from d2st.adapter.train.fit import fit
from d2st.adapter.train.plan import Plan, plan_stage
from d2st.adapter.train.prepare import make_source
from d2st.adapter.train.ranks import Ranks, joined, pick_rank_device
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.result import StageResult, read_result
from d2st.adapter.train.trainer import Event
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import RunError
from d2st.cache.fingerprint import differing_fields

__all__ = ["refuse_other_run", "run_stage", "train_stage"]


def train_stage(
    store: Store,
    recipe: Recipe,
    *,
    run_dir: Path,
    init_checkpoint: Path | None,
    resume: bool,
    device: str,
    on_event: Event = lambda event: None,
    manifest: pl.DataFrame | None = None,
    in_memory: bool = False,
) -> StageResult:
    """Train one stage.

    Args:
        store: a store with token maps.
        run_dir: the stage's own folder, such as runs/NAME/stage2.
        init_checkpoint: weights to start from, head included; None starts from seeded random ones.
        resume: go on with what is in `run_dir`; a finished stage just gives its result again.
        device: "cpu", "cuda" or "cuda:N".
        on_event: told of "note" (message), "start", "step", "epoch" and "end", as dicts with the key "event".
        manifest: labels and splits to use instead of those that the store was built with.
        in_memory: keep the token maps in memory once they were read, as `TokenLoader` does.

    Raises:
        ConfigError, ManifestError: recipe and cache do not go together; nothing was written.
        RunError: the folder is taken, a checkpoint does not fit, or a loss is not finite.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; the state is saved.
    """
    with joined() as ranks:
        with alike(ranks):
            device = pick_rank_device(ranks, device)
            plan = plan_stage(store, recipe, store.samples(manifest), ranks=ranks.size)
            rundir.refuse_taken(run_dir, resume=resume)
            refuse_other_run(run_dir, plan)
        return run_stage(
            store,
            plan,
            run_dir=run_dir,
            init_checkpoint=init_checkpoint,
            device=device,
            ranks=ranks,
            on_event=on_event if ranks.first else lambda event: None,
            in_memory=in_memory,
        )


def run_stage(
    store: Store,
    plan: Plan,
    *,
    run_dir: Path,
    init_checkpoint: Path | None,
    device: str,
    ranks: Ranks,
    on_event: Event,
    in_memory: bool = False,
) -> StageResult:
    """Train a stage that was planned, or go on with it; arguments and errors as in `train_stage`. Only the first of `ranks` writes."""
    if (run_dir / rundir.RESULT).is_file():
        on_event({"event": "note", "message": f"stage {plan.recipe.stage} in {run_dir} is finished already"})
        return read_result(run_dir)
    sources: list[TokenLoader] = []

    def open_source(detector: nn.Module) -> TokenLoader:
        sources.append(make_source(store, plan, detector, device=device, in_memory=in_memory))
        return sources[0]

    try:
        begun = begin_stage(
            store,
            plan,
            run_dir=run_dir,
            init_checkpoint=init_checkpoint,
            device=device,
            ranks=ranks,
            on_event=on_event,
            open_source=open_source,
        )
        ended = fit(
            begun.trainer,
            begun.progress,
            val=plan.selection.val,
            metric=begun.metric,
            keeper=begun.keeper,
            on_event=on_event,
            steps=plan.steps,
        )
        return end_stage(begun, ended, on_event=on_event)
    finally:
        for source in sources:
            source.close()


def refuse_other_run(run_dir: Path, plan: Plan) -> None:
    """Raise RunError unless what was begun in `run_dir` is the same run: same recipe, same token maps, same samples."""
    if not (run_dir / rundir.FINGERPRINT).is_file():
        return
    began = load_recipe(run_dir / rundir.RECIPE)
    fields = differing_fields(json.loads(began.model_dump_json()), json.loads(plan.recipe.model_dump_json()))
    stored = rundir.read_json(run_dir / rundir.FINGERPRINT)
    names = {
        "cache": "the cache's fingerprint",
        "manifest": "the manifest's samples, labels or splits, or their place in the cache",
        "views": "the views' fingerprints",
    }
    fields += [name for key, name in names.items() if stored.get(key) != plan.sources.get(key)]
    if fields:
        raise RunError(
            f"{run_dir} can't be resumed with other settings than it began with: {', '.join(fields)}",
            fix="Resume without changes (the run's own recipe is used), or train under another --name",
        )
