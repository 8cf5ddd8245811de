"""One stage, from a store and a recipe to a run directory. All that can be wrong with either is found before the directory is made."""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.fit import Keeper, fit
from d2st.adapter.train.log import RunLog
from d2st.adapter.train.loop import Event, Progress, steps_per_epoch
from d2st.adapter.train.prepare import clip_length, describe, make_trainer
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.recipe_file import load_recipe, to_toml
from d2st.adapter.train.select import Selection, select_samples
from d2st.adapter.train.validate import choose_metric
from d2st.cache import Store
from d2st.cache.errors import RunError
from d2st.cache.files import atomic_file, write_atomic
from d2st.cache.fingerprint import differing_fields

__all__ = ["StageResult", "train_stage"]


@dataclass(frozen=True)
class StageResult:
    """What a finished stage has to show. `metric` is what its best epoch was chosen by, `value` that epoch's; `best` is the checkpoint."""

    stage: int
    adapter: str
    best: Path
    metric: str
    value: float
    best_epoch: int
    epochs: int
    ended: str
    train_samples: int
    val_samples: int
    parameters: int
    seconds: float
    init: str | None


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
    samples = store.samples(manifest)
    data = recipe.data
    selection = select_samples(
        samples,
        kinds=data.kinds,
        max_samples=data.max_samples,
        seed=recipe.seed,
        shuffle_labels=data.shuffle_labels,
        allow_identity_overlap=data.allow_identity_overlap,
        need_all_kinds=recipe.stage == 3,
    )
    meta = describe(store, recipe, clip_frames=clip_length(recipe, selection, on_event))
    sources = {"cache": store.tokens.fingerprint, "manifest": rundir.manifest_digest(samples)}
    rundir.open_stage(run_dir, resume=resume)
    if (run_dir / rundir.FINGERPRINT).is_file():
        _refuse_other_run(run_dir, recipe, sources)
    if (run_dir / rundir.RESULT).is_file():
        on_event({"event": "note", "message": f"stage {recipe.stage} in {run_dir} is finished already"})
        return _read_result(run_dir)

    trainer, init = make_trainer(
        store, recipe, selection, meta, device=device, init_checkpoint=init_checkpoint, on_event=on_event, in_memory=in_memory
    )
    going_on = rundir.is_begun(run_dir)
    if going_on:
        init = rundir.read_json(run_dir / rundir.FINGERPRINT)["init"]
    else:
        _write_surroundings(
            run_dir, recipe, selection, {**sources, "init": init, "cache_path": _path_to(store, run_dir)}, device
        )
    keeper = Keeper(run_dir, {**meta, "init": init}, store.tokens.stats, store.tokens.calibration)
    progress = keeper.restore(trainer) if going_on else Progress()
    metric, steps = choose_metric(selection.val), steps_per_epoch(trainer)
    facts = {
        "stage": recipe.stage,
        "adapter": recipe.adapter.name,
        "metric": metric,
        "train_samples": selection.train.height,
        "val_samples": selection.val.height,
        "parameters": sum(p.numel() for p in trainer.detector.parameters() if p.requires_grad),
        "init": init,
    }
    RunLog(run_dir).say(", ".join(f"{key} {value}" for key, value in facts.items()))
    planned = {"steps": steps, "epochs": recipe.optim.epochs, "done_epochs": progress.epoch, "done_steps": progress.step}
    on_event({"event": "start", **facts, **planned})
    with closing(trainer.source):
        ended = fit(trainer, progress, val=selection.val, metric=metric, keeper=keeper, on_event=on_event, steps=steps)
    labels = {"fingerprint": sources["cache"], "shuffled_labels": data.shuffle_labels}
    result = _finish(run_dir, {**facts, **labels, "ended": ended}, progress)
    on_event({"event": "end", **{key: value for key, value in asdict(result).items() if key != "best"}})
    return result


def _finish(run_dir: Path, facts: Mapping[str, Any], progress: Progress) -> StageResult:
    """Write the result, which marks a stage as finished."""
    outcome = {
        "value": progress.best_value,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": progress.seconds,
    }
    rundir.write_json(run_dir / rundir.RESULT, {**facts, **outcome, **rundir.finished_now()})
    return _read_result(run_dir)


def _read_result(run_dir: Path) -> StageResult:
    stored = rundir.read_json(run_dir / rundir.RESULT)
    names = StageResult.__dataclass_fields__.keys() - {"best"}
    try:
        return StageResult(best=run_dir / checkpoint.BEST, **{name: stored[name] for name in names})
    except KeyError as error:
        raise RunError(f"{run_dir / rundir.RESULT} lacks {error}", fix="Remove that run and train again") from error


def _refuse_other_run(run_dir: Path, recipe: Recipe, sources: Mapping[str, str]) -> None:
    """A resumed run must be the same run: same recipe, same token maps, same samples."""
    began = load_recipe(run_dir / rundir.RECIPE)
    fields = differing_fields(json.loads(began.model_dump_json()), json.loads(recipe.model_dump_json()))
    stored = rundir.read_json(run_dir / rundir.FINGERPRINT)
    names = {"cache": "the cache's fingerprint", "manifest": "the manifest's samples, labels or splits"}
    fields += [name for key, name in names.items() if stored.get(key) != sources[key]]
    if fields:
        raise RunError(
            f"{run_dir} can't be resumed with other settings than it began with: {', '.join(fields)}",
            fix="Resume without changes (the run's own recipe is used), or train under another --name",
        )


def _path_to(store: Store, run_dir: Path) -> str | None:
    """Where the cache lies as seen from the run, so that `eval` finds it; None across Windows drives, where no relative path exists."""
    try:
        return Path(os.path.relpath(store.path.resolve(), run_dir.resolve())).as_posix()
    except ValueError:
        return None


def _write_surroundings(run_dir: Path, recipe: Recipe, selection: Selection, sources: Mapping[str, Any], device: str) -> None:
    write_atomic(run_dir / rundir.RECIPE, to_toml(recipe).encode())
    rundir.write_json(run_dir / "environment.json", rundir.environment(device))
    chosen = pl.concat([selection.train, selection.val]).select("sample_id", "split", "kind", "label").sort("sample_id")
    with atomic_file(run_dir / "samples.parquet") as file:
        chosen.write_parquet(file)
    rundir.write_json(run_dir / rundir.FINGERPRINT, sources)  # last: where it is, the rest is
