"""`kill -9` at named and at random points of everything that writes to a store: run again, it ends in the bytes of a run that was never
killed, `verify --deep` finds nothing, and no committed shard is computed twice. tests/bench/kill.py does the same by the hundred."""

import random

import pytest

SEED = 3
# operation (see kill_watch), which of its kind: killed before it, and at the next try right after it
NAMED = [
    ("build", r"^link zarr.json", 1),
    ("build", r"^link crops/zarr.json", 1),
    ("build", r"^link tokens/zarr.json", 1),
    ("build", r"^replace manifest.parquet", 1),
    ("build", r"^link plan/N", 1),
    ("build", r"^link crops/frames/zarr.json", 1),
    ("build", r"^link tokens/block_2/maps/zarr.json", 1),
    ("build int8", r"^link tokens/calibration", 1),
    ("build", r"^link claims/g0", 2),
    ("build", r"^replace claims/g0", 1),
    ("build", r"^mkdir crops/staging$", 2),
    ("build", r"^fsync crops/staging/frames/shard", 1),
    ("build", r"^open crops/staging/part", 1),
    ("build", r"^link crops/ledger/N.parquet from staging", 2),
    ("build", r"^replace crops/frames/shard from staging", 2),
    ("build", r"^unlink crops/staging/part", 1),
    ("build", r"^fsync tokens/staging/block_2/cls/shard", 1),
    ("build", r"^fsync tokens/staging/moments", 1),
    ("build", r"^fsync tokens/staging/part", 1),
    ("build", r"^link tokens/ledger/N.parquet from staging", 2),
    ("build", r"^replace tokens/block_0/cls/shard from staging", 1),
    ("build int8", r"^replace tokens/block_2/scales/shard from staging", 2),
    ("build", r"^replace tokens/moments/N.safetensors from staging", 1),
    ("build", r"^unlink tokens/staging/part", 2),
    ("build", r"^rmdir tokens/staging$", 1),
    ("append", r"^replace crops/frames/zarr.json", 1),
    ("append, splits moved", r"^replace tokens/moments/N.safetensors$", 1),
    ("retry", r"^link plan/N", 1),
    ("encode", r"^link tokens-half/ledger/N.parquet from staging", 2),
    ("add layers", r"^link tokens\+1/zarr.json", 1),
    ("repair", r"^unlink tokens/ledger/N.parquet$|^replace tokens/block_2/maps/shard", 1),
    ("repair", r"^replace crops/ledger/N.parquet$", 1),
    ("gc", r"^replace crops/ledger/N.parquet$", 1),
    ("gc", r"^replace plan/N.parquet$", 1),
]
# writes that end in the middle
TORN = [
    ("build", r"^write plan/N"),
    ("build", r"^write crops/staging/frames/shard"),
    ("build", r"^write tokens/staging/block_0/maps/shard"),
    ("build", r"^write tokens/staging/moments"),
    ("build", r"^write tokens/staging/part"),
    ("build int8", r"^write tokens/calibration"),
    ("build", r"^write claims/new"),
]


@pytest.fixture(scope="module")
def world(harness, server, tmp_path_factory, make_media):
    return harness.World(server, tmp_path_factory.mktemp("kill"), make_media)


@pytest.mark.parametrize(("scenario", "operation", "nth"), NAMED)
def test_killed_before_it_and_then_right_after_it(world, scenario, operation, nth):
    trial = world.trial(scenario, [{"match": operation, "nth": nth, "when": when} for when in ("before", "after")])
    assert trial.faults == []
    assert len(trial.points) >= 1, "no such operation any more: name the new one here"


@pytest.mark.parametrize(("scenario", "operation"), TORN)
def test_killed_in_the_middle_of_a_write(world, scenario, operation):
    trial = world.trial(scenario, [{"match": operation, "when": "half"}])
    assert trial.faults == []
    assert [point.split()[0] for point in trial.points] == ["half"], "no such operation any more: name the new one here"


@pytest.mark.parametrize("scenario", ["build", "build int8", "append", "retry", "encode", "add layers", "repair", "gc"])
def test_killed_at_random_three_times_in_a_row(world, scenario):
    chance = random.Random(f"{SEED} {scenario}")
    kills = [
        {"at": chance.randint(1, len(world.operations(scenario))), "when": chance.choice(["before", "after", "half"])}
        for _ in range(3)
    ]
    trial = world.trial(scenario, kills)
    assert trial.faults == [], (kills, trial.points)
    assert trial.points


@pytest.mark.parametrize("scenario", ["build", "build int8"])
def test_killed_from_outside(world, scenario):
    chance = random.Random(SEED)
    trial = world.trial(scenario, [{"after_s": chance.uniform(0.05, 0.3)} for _ in range(2)])
    assert trial.faults == []
