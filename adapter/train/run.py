"""Training as a user asks for it: one stage or all three, each starting from the one before, in one named run.

The commands `train` and `demo` both call `run_training`; they differ in what they show.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from d2st.adapter.train import checkpoint, rundir
from d2st.adapter.train.loop import Event
from d2st.adapter.train.recipe import STAGES, Recipe
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.stage import StageResult, train_stage
from d2st.cache import Store
from d2st.cache.device import pick_device
from d2st.cache.errors import ConfigError, RunError

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

    Returns:
        One result a stage.

    Raises:
        D2stError: as `train_stage` does; and RunError when a stage's predecessor is missing, ConfigError for a contradiction.
    """
    device = pick_device(device)
    if stages is None:
        stages = STAGES if recipe is None else (load_recipe(recipe).stage,)
    if recipe is not None and len(stages) > 1:
        raise ConfigError("one recipe is for one stage", fix="Leave out --stage, or use --set stage2.section.key=value")
    if resume and name is None:
        raise ConfigError("which run is to be resumed?", fix="Give its --name")
    name = name or rundir.default_name()
    folders = {stage: rundir.stage_folder(runs, name, stage) for stage in stages}
    changes = [] if adapter is None else [f'adapter.name="{adapter}"']
    changes += [] if preset is None else [f'adapter.params.preset="{preset}"']
    changes += [] if max_samples is None else [f"data.max_samples={max_samples}"]
    changes += [] if seed is None else [f"seed={seed}"]
    changes += overrides
    recipes = {stage: _recipe(stage, folders[stage], recipe, changes=changes, resume=resume) for stage in stages}
    for folder in folders.values():  # before the first of them costs an hour
        rundir.refuse_taken(folder, resume=resume)
    on_event({"event": "run", "name": name, "folder": str(runs / name), "stages": list(stages), "device": device})
    results: list[StageResult] = []
    for stage in stages:
        start = None
        if not rundir.is_begun(folders[stage]):
            start = _start(store, recipes[stage], runs, name, init if stage == stages[0] else None, on_event=on_event)
        results.append(
            train_stage(
                store,
                recipes[stage],
                run_dir=folders[stage],
                init_checkpoint=start,
                resume=resume,
                device=device,
                on_event=on_event,
                manifest=manifest,
                in_memory=in_memory,
            )
        )
    return results


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


def _start(store: Store, recipe: Recipe, runs: Path, name: str, init: str | None, *, on_event: Event) -> Path | None:
    """The checkpoint that a stage starts from, or None; says which."""
    if init == "none" or (init is None and (recipe.stage == 1 or recipe.start == "scratch")):
        return None
    if init is not None:
        return checkpoint.resolve_checkpoint(init)
    before = recipe.stage - 1
    found = rundir.find_previous(
        runs, stage=before, fingerprint=store.tokens.fingerprint, adapter=recipe.adapter.name, prefer=name
    )
    if found is None:
        raise RunError(
            f"stage {recipe.stage} starts from stage {before}, but {runs} has no finished stage {before} of adapter "
            f"{recipe.adapter.name!r} on these token maps",
            fix=f"Train it (--stage {before}), name a checkpoint (--init PATH), or start from scratch (--init none)",
        )
    on_event({"event": "note", "message": f"stage {recipe.stage} starts from {found.parent.parent.name}/stage{before}"})
    return found
