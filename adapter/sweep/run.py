"""A sweep from a search space to its winner, by one process or by many that share the runs folder.

The search comes first, then the repeats of the best with further seeds. Who has nothing left to do waits for the others, and takes over
what the dead leave: so each that stays to the end writes the outcome, and all write the same.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.sweep.check import Planner, check_space, starts_from
from d2st.adapter.sweep.population import run_population
from d2st.adapter.sweep.propose import STARTUP
from d2st.adapter.sweep.record import describe_sweep, join_sweep, sweep_folder
from d2st.adapter.sweep.repeats import Repeats, finalists, plan_repeats
from d2st.adapter.sweep.search import Search
from d2st.adapter.sweep.space_file import read_space
from d2st.adapter.sweep.study import Row, Study, refuse_without_optuna
from d2st.adapter.sweep.winner import choose_winner
from d2st.adapter.sweep.write import write_outcome
from d2st.adapter.train import rundir
from d2st.adapter.train.prepare import checkpoint_name
from d2st.adapter.train.ranks import Ranks, pick_rank_device
from d2st.adapter.train.trainer import Event
from d2st.cache import Store
from d2st.cache.claims import Claims
from d2st.cache.errors import RunError

__all__ = ["run_sweep"]

TRIALS = 64  # where neither the user nor the sweep says
GENERATIONS = 4  # of trials, at least, by TPE: with all of them at once it would have nothing to learn from
ENDED = ("complete", "pruned", "failed")
POLL_S = 2.0  # between looks at what the others have left to do


def run_sweep(
    store: Store,
    space_file: Path,
    *,
    runs: Path = Path("runs"),
    name: str | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    init: str | None = None,
    device: str = "auto",
    at_once: int | None = None,
    in_memory: bool = False,
    manifest: pl.DataFrame | None = None,
    on_event: Event = lambda event: None,
) -> dict[str, Any]:
    """Search, repeat the best, choose; or go on with a sweep, or join one that others are at.

    Args:
        name: of the sweep; the date and time by default.
        trials: of the whole sweep, whoever runs them; by default as the sweep says, or the whole grid, or 64.
        seeds: how many further seeds the best are trained with; by default as the sweep says, or 3.
        init: checkpoint, stage or run that all trials start from; "none" is random weights.
        at_once: trials at once; by default as many as fit into memory, but no more than a quarter of all with TPE.
        on_event: told what `run_population` tells, and: "sweep" (name, folder, trials, seeds, rows), "phase" (search or seeds, total),
            "trial" (number; values, or of and seed), "ended" (number, state, value, error), "waiting" (others).

    Returns:
        As `choose_winner`, with "trials": {state: count}, "sweep" and "folder".

    Raises:
        D2stError: the space, the store and the recipes do not go together: nothing was trained. Or no trial finished.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    refuse_without_optuna()
    space = read_space(space_file)
    device = pick_rank_device(Ranks(), device)
    start = starts_from(space, init)
    samples = store.samples(manifest)
    planner = Planner(store, samples)
    name = rundir.default_name() if name is None else name
    folder = sweep_folder(runs, name)
    check_space(space, planner, init=start)
    facts = describe_sweep(space, cache=store.tokens.fingerprint, manifest=rundir.manifest_digest(samples), init=start)
    usual = len(space.grid()) if space.sampler == "grid" else TRIALS
    record = join_sweep(folder, facts, space=space, trials=trials, seeds=seeds, usual=usual)
    population = partial(run_population, store, device=device, capacity=at_once, in_memory=in_memory, on_event=on_event)
    with Claims(folder / "claims", purpose="build") as claims:
        study = Study(folder, space)
        total = record["trials"] if study.most is None else min(record["trials"], study.most)
        known = {"name": name, "folder": str(folder), "trials": total, "seeds": record["seeds"]}
        others = len(claims.others())
        on_event({"event": "sweep", **known, "epochs": space.base.optim.epochs, "rows": study.rows(), "others": others})
        parts = {"planner": planner, "claims": claims, "init": start, "on_event": on_event}
        most = max(STARTUP, -(-total // GENERATIONS)) if space.sampler == "tpe" and at_once is None else None
        on_event({"event": "phase", "phase": "search", "total": total})
        _until_over(Search(folder, study, space=space, total=total, most=most, **parts), population, on_event)
        rows = study.rows()
        best = finalists(rows)
        if not best:
            fix = "Mend the search space and sweep under another --name"
            raise RunError(f"no trial of {folder} finished: {_why(rows)}", fix=fix)
        repeats = plan_repeats(folder, space, best, seeds=record["seeds"], first=len(rows))
        if not all(repeat.is_over() for repeat in repeats):
            on_event({"event": "phase", "phase": "seeds", "total": len(repeats)})
            _until_over(Repeats(repeats, **parts), population, on_event)
        on_event({"event": "note", "message": "scoring the validation split with the finalists, and drawing pictures"})
        outcome = choose_winner(store, planner.plan(space.recipe(best[0].values)), best, repeats, device=device)
        outcome["trials"] = {state: sum(row.state == state for row in rows) for state in ENDED}
        outcome["importances"] = study.importances()
        write_outcome(folder, space, rows, outcome, start=checkpoint_name(start) if start else "", tokens=store.token_set)
    return {"sweep": name, "folder": str(folder), **outcome}


def _until_over(part: Search | Repeats, population: Callable[..., None], on_event: Event) -> None:
    """Train what there is of a part; then wait for what others have of it, and take it over if they die."""
    while not part.is_over():
        population(propose=part.propose, on_epoch=part.on_epoch, on_end=part.on_end)
        if not part.is_over():
            on_event({"event": "waiting", "others": part.others()})
            time.sleep(POLL_S)


def _why(rows: list[Row]) -> str:
    """What became of the trials instead."""
    failed = [row for row in rows if row.state == "failed"]
    return f"{len(failed)} failed, the first by: {failed[0].error}" if failed else f"{len(rows)} were pruned"
