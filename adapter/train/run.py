"""Training as a user asks for it: one stage or all three, each starting from the one before, in one named run.

The commands `train` and `demo` both call `run_training`; they differ in what they show.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.begun import about_new_stages
from d2st.adapter.train.exchange import alike, from_first
from d2st.adapter.train.plan import Plan, plan_stage
from d2st.adapter.train.prepare import checkpoint_name, refuse_misfit
from d2st.adapter.train.ranks import joined, pick_rank_device
from d2st.adapter.train.recipe import STAGES, Recipe
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.result import StageResult
from d2st.adapter.train.stage import refuse_other_run, run_stage
from d2st.adapter.train.track import refuse_missing, tracked
from d2st.adapter.train.trainer import Event
from d2st.cache import Store
from d2st.cache.errors import ConfigError, RunError, UsageError

__all__ = ["run_training"]


def run_training(
    store: Store,
    *,
    stages: Sequence[int] | None = None,
    runs: Path = Path("runs"),
    name: str | None = None,
    recipe: str | Path | None = None,
    adapter: str | None = None,
    preset: str | None = None,
    max_samples: int | None = None,
    overrides: Sequence[str] = (),
    init: str | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int | None = None,
    manifest: pl.DataFrame | None = None,
    in_memory: bool = False,
    track: Sequence[str] = (),
    on_event: Event = lambda event: None,
) -> list[StageResult]:
    """Train `stages` in order into runs/NAME/stageN.

    Args:
        stages: by default the recipe's, or all three.
        name: of the run; the date and time by default.
        recipe: a recipe that comes with the package, by name, or a TOML file, for a single stage; else each stage's own.
        adapter, preset, max_samples, seed: override the recipe's.
        overrides: "section.key=value"; "stage2.section.key=value" is for one of several stages.
        init: a checkpoint, stage or run to start the first stage from; "none" starts it from scratch. By default stage 1 starts from
            scratch, and a later one from the newest finished stage before it with the same adapter on the same token maps: this run's, if
            there is one, else any run's under `runs`.
        resume: go on with a run that was stopped; `name` is needed, and its own recipes are used where nothing else is asked for.
        device: "auto", "cpu", "cuda" or "cuda:N".
        in_memory: keep the token maps in memory once they were read, as `TokenLoader` does.
        track: experiment trackers, of `d2st.adapter.train.track.tracker_names()`.

    Returns:
        One result a stage.

    Raises:
        D2stError: as `train_stage` does; and RunError when a stage's predecessor is missing, ConfigError for a contradiction.
    """
    with joined() as ranks:
        with alike(ranks):
            refuse_missing(track)
            device = pick_rank_device(ranks, device)
            if stages is None:
                stages = STAGES if recipe is None else (load_recipe(recipe).stage,)
            if recipe is not None and len(stages) > 1:
                raise UsageError("one recipe is for one stage", fix="Leave out --stage, or use --set stage2.section.key=value")
            if resume and name is None:
                raise UsageError("which run is to be resumed?", fix="Give its --name")
        name = from_first(ranks, rundir.default_name()) if name is None else name
        with alike(ranks):
            folders = {stage: rundir.stage_folder(runs, name, stage) for stage in stages}
            changes = _changes(adapter=adapter, preset=preset, max_samples=max_samples, seed=seed, overrides=overrides)
            _refuse_strays(changes, stages)
            recipes = {stage: _recipe(stage, folders[stage], recipe, changes=changes, resume=resume) for stage in stages}
            samples = store.samples(manifest)
            plans = {stage: plan_stage(store, recipes[stage], samples, ranks=ranks.size) for stage in stages}
            for stage, folder in folders.items():
                rundir.refuse_taken(folder, resume=resume)
                refuse_other_run(folder, plans[stage])
            starts = _starts(plans, folders, runs=runs, name=name, init=init)
        results: list[StageResult] = []
        with tracked(track if ranks.first else (), on_event if ranks.first else lambda event: None) as say:
            say({"event": "run", "name": name, "folder": str(runs / name), "stages": list(stages), "device": device})
            if resume and recipe is None and not changes and (note := about_new_stages(recipes, folders)):
                say({"event": "note", "message": note})
            for stage in stages:
                if starts[stage] is not None and (init is None or stage != stages[0]):
                    say({"event": "note", "message": f"stage {stage} starts from {checkpoint_name(starts[stage])}"})
                results.append(
                    run_stage(
                        store,
                        plans[stage],
                        run_dir=folders[stage],
                        init_checkpoint=starts[stage],
                        device=device,
                        ranks=ranks,
                        on_event=say,
                        in_memory=in_memory,
                    )
                )
    return results


def _changes(
    *, adapter: str | None, preset: str | None, max_samples: int | None, seed: int | None, overrides: Sequence[str]
) -> list[str]:
    """Everything that is asked for on top of a recipe, as overrides."""
    changes = [] if adapter is None else [f'adapter.name="{adapter}"']
    changes += [] if preset is None else [f'adapter.params.preset="{preset}"']
    changes += [] if max_samples is None else [f"data.max_samples={max_samples}"]
    changes += [] if seed is None else [f"seed={seed}"]
    return [*changes, *overrides]


def _refuse_strays(changes: Sequence[str], stages: Sequence[int]) -> None:
    """Raise UsageError for a change to a stage that does not run: dropped in silence, it would cost a night."""
    for item in changes:
        prefix = item.partition(".")[0].strip()
        if any(prefix == f"stage{stage}" for stage in STAGES if stage not in stages):
            asked = ", ".join(map(str, stages))
            raise UsageError(
                f"{item!r} is for a stage that does not run; asked for: {asked}",
                fix="Leave it out, or train that stage too (--stage all)",
            )


def _recipe(stage: int, folder: Path, source: str | Path | None, *, changes: Sequence[str], resume: bool) -> Recipe:
    """The recipe of one stage with what is asked for on top."""
    wanted = []
    for item in changes:
        prefix, _, rest = item.partition(".")
        if prefix not in (f"stage{number}" for number in STAGES):
            wanted.append(item)
        elif prefix == f"stage{stage}":
            wanted.append(rest)
    own = folder / rundir.RECIPE
    found = load_recipe(source or (own if resume and own.is_file() else stage), wanted)
    if found.stage != stage:
        raise ConfigError(f"{source} is a recipe of stage {found.stage}, not {stage}", fix=f"Use --stage {found.stage}")
    return found


def _starts(
    plans: Mapping[int, Plan], folders: Mapping[int, Path], *, runs: Path, name: str, init: str | None
) -> dict[int, Path | None]:
    """The checkpoint that each stage starts from, which this run may have to make first; None for random weights or a begun stage.

    Raises:
        RunError: there is none, or it does not fit.
    """
    starts: dict[int, Path | None] = {}
    for position, (stage, plan) in enumerate(plans.items()):
        asked = init if position == 0 else None
        if rundir.is_begun(folders[stage]) or asked == "none":
            starts[stage] = None
        elif asked is not None:
            starts[stage] = checkpoint.resolve_checkpoint(asked)
            refuse_misfit(starts[stage], checkpoint.read_meta(starts[stage]), plan.meta)
        elif stage == 1 or plan.recipe.start == "scratch":
            starts[stage] = None
        elif stage - 1 in list(plans)[:position]:
            starts[stage] = folders[stage - 1] / checkpoint.BEST
            refuse_misfit(f"stage {stage - 1} of this run", plans[stage - 1].meta, plan.meta)
        else:
            starts[stage] = _newest(plan, runs, name)
            refuse_misfit(starts[stage], checkpoint.read_meta(starts[stage]), plan.meta)
    return starts


def _newest(plan: Plan, runs: Path, name: str) -> Path:
    """The best checkpoint of the newest finished stage before this one."""
    stage, adapter = plan.recipe.stage, plan.recipe.adapter.name
    found = rundir.find_previous(runs, stage=stage - 1, fingerprint=plan.meta["fingerprint"], adapter=adapter, prefer=name)
    if found is None:
        raise RunError(
            f"stage {stage} starts from stage {stage - 1}, but {runs} has no finished stage {stage - 1} of adapter "
            f"{adapter!r} on these token maps",
            fix=f"Train it (--stage {stage - 1}), name a checkpoint (--init PATH), or start from scratch (--init none)",
        )
    return found
