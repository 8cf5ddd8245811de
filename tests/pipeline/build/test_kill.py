"""`kill -9` at named and at random points of everything that writes to a store: run again, it ends in the bytes of a run that was never
killed, `verify --deep` finds nothing, and no committed shard is computed twice. tests/bench/kill.py does the same by the hundred."""

import random
import re

import pytest

SEED = 3
# A job, and operations (see kill_watch) at which one try after the other ends, each going on from where the last one was: in the middle of
# a write; before what makes something visible, and at the next try right after it; before other operations, or after those that tidy up.
# What is done at the end of a shard comes first in a chain, so that each kill hits a shard on its way, and not one that is already being
# put in order after a kill.
CHAINS = {
    "a store begins": (
        "build",
        [
            *(r"^link zarr.json", r"^link crops/zarr.json", r"^link tokens/zarr.json", r"^replace manifest.parquet"),
            *(r"^write plan/N", r"^link plan/N", r"^link crops/frames/zarr.json", r"^link tokens/block_2/maps/zarr.json"),
        ],
    ),
    "crops begin": (
        "build",
        [
            *(r"^write claims/new", r"^link claims/g0", r"^mkdir crops/staging$"),
            *(r"^write crops/staging/frames/shard", r"^fsync crops/staging/frames/shard", r"^open crops/staging/part"),
        ],
    ),
    "crops are committed": (
        "build",
        [
            r"^unlink crops/staging/part",
            r"^replace crops/frames/shard from staging",
            r"^link crops/ledger/N.parquet from staging",
        ],
    ),
    "token maps begin": (
        "build",
        [
            *(r"^write tokens/staging/block_0/maps/shard", r"^fsync tokens/staging/block_2/cls/shard"),
            *(r"^write tokens/staging/moments", r"^fsync tokens/staging/moments"),
            *(r"^write tokens/staging/part", r"^fsync tokens/staging/part"),
        ],
    ),
    "token maps are committed": (
        "build",
        [
            r"^unlink tokens/staging/part",
            r"^replace tokens/moments/N.safetensors from staging",
            r"^link tokens/ledger/N.parquet",
        ],
    ),
    "token maps are moved": (
        "build",
        [r"^rmdir tokens/staging$", r"^replace tokens/block_0/cls/shard from staging", r"^replace claims/g\d"],
    ),
    "int8": (
        "build int8",
        [r"^write tokens/calibration", r"^link tokens/calibration", r"^replace tokens/block_2/scales/shard from staging"],
    ),
    "append": ("append", [r"^replace crops/frames/zarr.json"]),
    "append, splits moved": ("append, splits moved", [r"^replace tokens/moments/N.safetensors$"]),
    "retry": ("retry", [r"^link plan/N"]),
    "encode": ("encode", [r"^link tokens-half/ledger/N.parquet from staging"]),
    "add layers": ("add layers", [r"^link tokens\+1/zarr.json"]),
    "repair crops": ("repair", [r"^replace crops/ledger/N.parquet$"]),
    "repair token maps": ("repair", [r"^unlink tokens/ledger/N.parquet$|^replace tokens/block_2/maps/shard"]),
    "gc": ("gc", [r"^replace crops/ledger/N.parquet$", r"^replace plan/N.parquet$"]),
}
WHEN = {
    **dict.fromkeys(("link", "replace"), ("before", "after")),
    **dict.fromkeys(("fsync", "open", "mkdir"), ("before",)),
    **dict.fromkeys(("unlink", "rmdir"), ("after",)),
    "write": ("half",),
}


@pytest.fixture(scope="module")
def world(harness, server, tmp_path_factory, make_media):
    return harness.World(server, tmp_path_factory.mktemp("kill"), make_media)


@pytest.mark.parametrize("chain", CHAINS)
def test_killed_at_each_of_these_in_turn(world, chain):
    scenario, operations = CHAINS[chain]
    kills = [{"match": operation, "when": when} for operation in operations for when in WHEN[operation[1:].split()[0]]]
    trial = world.trial(scenario, kills)
    assert trial.faults == [], trial.points
    points = [re.sub("^(before|after|half of) ", "", point) for point in trial.points]
    missed = [operation for operation in operations if not any(re.search(operation, point) for point in points)]
    assert missed == [], "no such operation any more: name the new one here"
    assert sum(point.startswith("half of") for point in trial.points) == sum(kill["when"] == "half" for kill in kills)


@pytest.mark.parametrize("scenario", ["build", "build int8", "append", "retry", "encode", "add layers", "repair", "gc"])
def test_killed_at_random_twice_in_a_row(world, scenario):
    chance = random.Random(f"{SEED} {scenario}")
    kills = [
        {"at": chance.randint(1, len(world.operations(scenario))), "when": chance.choice(["before", "after", "half"])}
        for _ in range(2)
    ]
    trial = world.trial(scenario, kills)
    assert trial.faults == [], (kills, trial.points)
    assert trial.points


def test_killed_from_outside(world):
    chance = random.Random(SEED)
    trial = world.trial("build int8", [{"after_s": chance.uniform(0.05, 0.3)} for _ in range(2)])
    assert trial.faults == []
