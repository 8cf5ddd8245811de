"""A sweep's folder, and what a sweep is: the facts that all who join must agree on.

runs/NAME/  sweep.json        space, cache, samples, where trials start from: written once; how many trials and seeds
            space.toml        the search space, and base.toml, the recipe that it starts from
            journal.log       the study: what was tried, and what it came to
            claims/           who trains what right now
            trials/0007/      an ordinary run, stageN in it
            seeds/0007-s1/    the same recipe with another seed
            summary.json      the outcome: winner, spread, noise
            best.toml         the winner as a recipe
            sweep.parquet     a row a trial
            plots/            history.png, parallel.png, importances.png
"""

import json
from pathlib import Path
from typing import Any

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.sweep.space import Space
from d2st.adapter.sweep.space_file import BASE, space_text
from d2st.adapter.train import rundir
from d2st.adapter.train.recipe_file import to_toml
from d2st.cache.errors import RunError, UsageError
from d2st.cache.files import create_exclusive, write_atomic
from d2st.cache.fingerprint import differing_fields

__all__ = ["SUMMARY", "SWEEP", "describe_sweep", "join_sweep", "seed_folder", "sweep_folder", "trial_folder"]

SWEEP, SUMMARY, SPACE = "sweep.json", "summary.json", "space.toml"
SEEDS = 3  # where neither the user nor the sweep says
FORMAT = 1


def sweep_folder(runs: Path, name: str) -> Path:
    """runs/NAME. Raises UsageError for a name that would leave `runs`, RunError where an ordinary run lies there."""
    folder = rundir.stage_folder(runs, name, 1).parent
    if folder.is_dir() and not (folder / SWEEP).is_file() and any(folder.iterdir()):
        raise RunError(f"{folder} holds something else than a sweep", fix="Choose another --name")
    return folder


def trial_folder(folder: Path, number: int) -> Path:
    """Of a trial: an ordinary run."""
    return folder / "trials" / f"{number:04d}"


def seed_folder(folder: Path, number: int, seed: int) -> Path:
    """Of a trial's recipe with another seed."""
    return folder / "seeds" / f"{number:04d}-s{seed}"


def describe_sweep(space: Space, *, cache: str, manifest: str, init: Path | None) -> dict[str, Any]:
    """What makes a sweep what it is, as JSON. cache, manifest: digests of what is trained on."""
    start = checkpoint_digest(init) if init else None
    return {"format": FORMAT, **space.document(), "cache": cache, "manifest": manifest, "init": start}


def join_sweep(
    folder: Path, facts: dict[str, Any], *, space: Space, trials: int | None, seeds: int | None, usual: int
) -> dict[str, Any]:
    """Begin a sweep, or find that it is the one that was begun here; returns its record with "trials" and "seeds".

    Args:
        facts: of `describe_sweep`.
        trials, seeds: None takes what the sweep says; a new one has `usual` trials.

    Raises:
        UsageError: fewer than one trial, or than no seed.
        RunError: another sweep was begun here; names what differs.
    """
    if (trials is not None and trials < 1) or (seeds is not None and seeds < 0):
        raise UsageError(
            f"a sweep has at least one trial and no negative seeds, not {trials} and {seeds}", fix="Raise --trials or --seeds"
        )
    record = {**facts, "trials": trials or usual, "seeds": SEEDS if seeds is None else seeds}
    folder.mkdir(parents=True, exist_ok=True)
    if create_exclusive(folder / SWEEP, _text(record)):
        write_atomic(folder / BASE, to_toml(space.base).encode())
        write_atomic(folder / SPACE, space_text(space).encode())
        return record
    stored = rundir.read_json(folder / SWEEP)
    counts = ("trials", "seeds")
    own = {key: value for key, value in stored.items() if key not in counts}
    if fields := differing_fields(own, json.loads(json.dumps(facts))):
        names = {
            "cache": "the cache's fingerprint",
            "manifest": "the manifest's samples, labels or splits",
            "init": "the checkpoint that trials start from",
        }
        raise RunError(
            f"{folder} is a sweep of something else; what differs: {', '.join(names.get(field, field) for field in fields)}",
            fix=f"Choose another --name, or go on with the space it began with: {folder / SPACE}",
        )
    wanted = {**stored, **{key: value for key, value in (("trials", trials), ("seeds", seeds)) if value is not None}}
    if wanted != stored:
        write_atomic(folder / SWEEP, _text(wanted))
    return wanted


def _text(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()
