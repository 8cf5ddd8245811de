"""One stage, from a store and a recipe to a run directory. All that can be wrong with either is found before the directory is made."""

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import polars as pl

from d2st.adapter.nets import clip_flops, count_parameters
from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.exchange import alike, from_first, same_weights
from d2st.adapter.train.fit import Keeper, fit
from d2st.adapter.train.gaps import gap_after, gap_before
from d2st.adapter.train.log import gap_line
from d2st.adapter.train.plan import Plan, plan_stage
from d2st.adapter.train.prepare import checkpoint_name, make_detector, make_trainer
from d2st.adapter.train.ranks import Ranks, joined, pick_rank_device
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import load_recipe, to_toml
from d2st.adapter.train.result import StageResult, read_result, write_result
from d2st.adapter.train.trainer import Event, Progress, Trainer
from d2st.adapter.train.validate import choose_metric
from d2st.cache import Store
from d2st.cache.errors import RunError
from d2st.cache.files import atomic_file, write_atomic
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
    stage, going_on = plan.recipe.stage, rundir.is_begun(run_dir)
    start = None if going_on else init_checkpoint
    if (run_dir / rundir.RESULT).is_file():
        on_event({"event": "note", "message": f"stage {stage} in {run_dir} is finished already"})
        return read_result(run_dir)
    with alike(ranks):
        for message in (*plan.notes, *(_about_start(start, plan) if start else ())):
            on_event({"event": "note", "message": f"stage {stage}: {message}"})
        whiten = ranks.first and not going_on
        detector, source, init = make_detector(
            store, plan, device=device, init_checkpoint=start, in_memory=in_memory, whiten=whiten
        )
        if going_on:
            init = rundir.read_json(run_dir / rundir.FINGERPRINT)["init"]
    with closing(source):
        same_weights(ranks, detector)
        trainer = make_trainer(store, plan, detector, source, device=device, ranks=ranks, on_event=on_event)
        keeper = Keeper(run_dir, {**plan.meta, "init": init}, store.tokens.stats, store.tokens.calibration, writes=ranks.first)
        with alike(ranks):
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
        ended = fit(
            trainer, progress, val=plan.selection.val, metric=metric, keeper=keeper, on_event=on_event, steps=plan.steps
        )
        with alike(ranks):
            gap = gap_after(trainer, plan.selection, run_dir, before)
        if gap:
            keeper.say(gap_line(gap["before"], gap["after"]))
    labels = {"fingerprint": plan.sources["cache"], "shuffled_labels": plan.recipe.data.shuffle_labels}
    labels |= {"views": plan.sources["views"]} if "views" in plan.sources else {}
    if ranks.first:
        write_result(run_dir, {**facts, **labels, "ended": ended, "gap": gap}, progress)
    result = from_first(ranks, read_result(run_dir) if ranks.first else None)
    on_event({"event": "end", **{key: value for key, value in asdict(result).items() if key != "best"}})
    return result


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


def _about_start(path: Path, plan: Plan) -> list[str]:
    """What the user should know of the weights that a stage starts from."""
    said, sources = [], path.parent / rundir.FINGERPRINT
    name = checkpoint_name(path)
    if checkpoint.read_meta(path).get("fingerprint") != plan.meta["fingerprint"]:
        said.append(f"{name} was trained on token maps of another fingerprint")
    if sources.is_file() and rundir.read_json(sources).get("manifest") != plan.sources["manifest"]:
        said.append(f"{name} was trained on another manifest: its samples, labels or splits differ from these")
    return said


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
    rundir.write_json(run_dir / "environment.json", surroundings)
    rundir.write_json(run_dir / "mix.json", {"strata": plan.selection.mix.to_dicts()})
    chosen = pl.concat([plan.selection.train, plan.selection.val]).select("sample_id", "dataset", "split", "kind", "label")
    with atomic_file(run_dir / "samples.parquet") as file:
        chosen.sort("sample_id").write_parquet(file)
    sources = {**plan.sources, "init": init, "cache_path": _path_to(store, run_dir)}
    rundir.write_json(run_dir / rundir.FINGERPRINT, sources)  # last: where it is, the rest is
