"""Hundreds of kills, by hand: `kill -9` at random file operations of every command that writes to a store, one to three in a row, some from
outside at a random moment. After each row the command runs to its end, and the store must be the one that was never killed.

    python tests/bench/kill.py --kills 500
    python tests/bench/kill.py --kills 50 --only gc --seed 7      # one scenario, other points

Prints how many kills hit which kind of operation and what came of them; exits with 1 if any store came out wrong.
"""

import argparse
import importlib.util
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

BUILD_TESTS = Path(__file__).parents[1] / "pipeline" / "build"
OUTSIDE = 0.15  # share of kills by a signal from outside


def load(name: str):
    """A module of the build's test folder."""
    spec = importlib.util.spec_from_file_location(name, BUILD_TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def kind_of(point: str) -> str:
    """Where a kill hit, in a few words: "after link ledger", "half of write staging"."""
    if point == "from outside":
        return point
    when, operation, what = re.fullmatch(r"(before|after|half of) (\w+) (.*)", point).groups()
    for name, pattern in (
        ("claims", r"^claims"),
        ("dead staging", r"dead"),
        ("move into place", r"from staging$"),
        ("staging", r"staging"),
        ("ledger", r"ledger"),
        ("plan", r"^plan"),
        ("manifest", r"^manifest"),
        ("calibration", r"calibration"),
        ("statistics", r"moments"),
        ("metadata", r"zarr\.json"),
        ("shard file", r"/shard"),
    ):
        if re.search(pattern, what):
            if name == "move into place" and operation == "link":
                name = "ledger (commit)"
            return f"{when} {operation} {name}"
    return f"{when} {operation} folder"


def choose(chance: random.Random, operations: list[str]) -> dict:
    """One kill: half of those at an operation are at any of them, half at a kind of operation first, so that rare ones get their share."""
    if chance.random() < OUTSIDE:
        return {"after_s": chance.uniform(0.02, 0.4)}
    when = chance.choice(["before", "after", "half"])
    if chance.random() < 0.5:
        return {"at": chance.randint(1, len(operations)), "when": when}
    name = chance.choice(sorted(set(operations)))
    return {"match": f"^{re.escape(name)}$", "nth": chance.randint(1, operations.count(name)), "when": when}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one scenario")
    options = parser.parse_args()
    harness, media = load("kill_harness"), load("conftest")
    chance, begin = random.Random(options.seed), perf_counter()
    kinds: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    wrong, left, left_bytes = [], 0, 0
    with tempfile.TemporaryDirectory() as folder, harness.Server() as server:
        world = harness.World(server, Path(folder), media._make_media)
        names = [options.only] if options.only else list(world.scenarios)
        while kinds.total() < options.kills:
            name = names[runs.total() % len(names)]
            kills = []
            for _ in range(chance.choice([1, 1, 1, 2, 3])):
                kills.append(choose(chance, world.operations(name)))
            try:
                trial = world.trial(name, kills)
            except AssertionError as error:  # a job that failed or hung is a finding too
                trial = harness.Trial(name, [], [str(error)])
            runs[name] += 1
            hits[name] += len(trial.points)
            kinds.update(kind_of(point) for point in trial.points)
            left += bool(trial.left)
            left_bytes += bool(trial.left_bytes)
            if trial.faults:
                wrong.append((name, kills, trial))
                print(f"WRONG {name} {kills}: {trial.points}", *trial.faults, sep="\n  ", flush=True)
    for kind, count in kinds.most_common():
        print(f"{count:6}  {kind}")
    for name, count in hits.items():
        print(f"{count:6} kills in {runs[name]} runs of {name}")
    seconds = perf_counter() - begin
    print(f"{kinds.total()} kills in {runs.total()} runs, {seconds:.0f} s; {len(wrong)} stores came out wrong.")
    print(
        "The others: byte for byte the store that was never killed, nothing found by verify, no committed shard written again."
    )
    print(f"After {left} runs something was left behind, which gc removed: files in {left_bytes} of them, else empty folders.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
