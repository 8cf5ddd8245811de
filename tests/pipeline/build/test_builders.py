"""Four builders on one store, each a process that runs `d2st cache build`: every shard is computed once, whoever dies or sleeps is replaced
by the others, and the bytes are those of one builder alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2st.pipeline.manifest import write_manifest

OPTIONS = (
    *("--backbone", "d2st-test", "--pretrained", "random:0", "--layers", "0,2", "--micro-batch", "8", "--detector", "none"),
    *("--frames", "4", "--crop-size", "32", "--device", "cpu", "--workers", "1", "--json"),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_media):
    folder = tmp_path_factory.mktemp("builders")
    (folder / "media").mkdir()
    write_manifest(make_media(folder / "media", videos=2, images=18), folder / "m.parquet", root=folder / "media")
    return folder / "m.parquet"


@pytest.fixture
def start(server, manifest):
    """A function (store, *options, kill=, expires_s=) that starts a builder and returns its process id."""

    def start_one(store, *options, **more):
        arguments = ["cache", "build", str(manifest), "--cache", str(store), *OPTIONS, *options]
        return server.start({"job": "cli", "store": str(store), "arguments": arguments, **more})

    return start_one


@pytest.fixture
def reports(server):
    """A function of process ids -> the reports of builders that came to their end."""

    def wait(pids):
        results = [server.wait(pid).result for pid in pids]
        assert [result["code"] for result in results] == [0] * len(results), results
        return [json.loads(result["out"]) for result in results]

    return wait


@pytest.fixture(scope="module")
def alone(server, manifest, tmp_path_factory, harness):
    """(files, shards) of a store with a single builder."""
    store = tmp_path_factory.mktemp("alone") / "s"
    arguments = ["cache", "build", str(manifest), "--cache", str(store), *OPTIONS]
    result = server.run({"job": "cli", "store": str(store), "arguments": arguments}).result
    return harness.files_of(store), json.loads(result["out"])["planned_shards"]


def wait_for(happened, what, *, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def sleeps(pid: int) -> bool:
    """Whether a process has stopped itself, or been stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def committed(store: Path) -> int:
    """Shards of crops and of token maps."""
    return len(list(store.glob("*/ledger/*.parquet")))


def stands_still(store: Path) -> bool:
    """Whether nothing is committed for a second."""
    before = committed(store)
    time.sleep(1.0)
    return committed(store) == before


def made(builders) -> int:
    return sum(report["built_crops"] + report["built_tokens"] for report in builders)


def test_four_at_once_share_the_work(start, reports, alone, harness, tmp_path):
    store = tmp_path / "s"
    found = reports([start(store) for _ in range(4)])
    assert harness.files_of(store) == alone[0]
    assert sum(report["built_crops"] for report in found) == sum(report["built_tokens"] for report in found) == alone[1]
    assert sum(report["built_tokens"] > 0 for report in found) >= 2
    assert {report["shards"] for report in found} == {alone[1]}, "each ends when all is there"
    assert harness.left_behind(store) == []
    assert not list((store / "claims").iterdir())


def test_one_is_killed_and_its_shards_are_taken_over_at_once(start, server, reports, alone, harness, tmp_path):
    store = tmp_path / "s"
    killed = start(store, kill={"match": r"^fsync tokens/staging/part", "nth": 2, "when": "before"})
    others = [start(store) for _ in range(3)]
    gone = server.wait(killed)
    begin = time.monotonic()
    found = reports(others)
    assert time.monotonic() - begin < 30, "the claim of a dead neighbour does not have to expire"
    assert harness.files_of(store) == alone[0]
    assert gone.killed or gone.result["code"] == 0  # the others may have left it less than two shards
    assert made(found) <= 2 * alone[1]


def test_one_is_killed_while_the_others_only_wait_for_it(start, server, reports, alone, harness, tmp_path):
    store = tmp_path / "s"
    asleep = start(store, kill={"match": r"^link tokens/ledger", "nth": 2, "when": "stop"})
    wait_for(lambda: sleeps(asleep), "it stops before its second commit")
    done = committed(store)
    (part,) = reports([start(store, "--shard", "1/1")])
    assert part["shards"] < alone[1], "it was told to wait for nobody, and makes all that the sleeper does not hold"
    others = [start(store) for _ in range(2)]
    assert stands_still(store), "the others have nothing to do but wait"
    os.kill(asleep, signal.SIGKILL)
    begin = time.monotonic()
    found = reports(others)
    assert time.monotonic() - begin < 30
    assert server.wait(asleep).killed
    assert made([part, *found]) == 2 * alone[1] - done
    assert harness.files_of(store) == alone[0]


@pytest.mark.parametrize("at", [r"^link tokens/ledger", r"^link crops/ledger", r"^replace tokens/block_0/maps/shard"])
def test_a_sleeper_is_replaced_and_changes_nothing_when_it_wakes(start, server, reports, alone, harness, tmp_path, at):
    store = tmp_path / "s"
    asleep = start(store, kill={"match": at, "nth": 2, "when": "stop"}, expires_s=1.0)
    wait_for(lambda: sleeps(asleep), "it stops")
    done = committed(store)
    found = reports([start(store, expires_s=1.0) for _ in range(2)])
    assert made(found) == 2 * alone[1] - done
    assert harness.files_of(store) == alone[0]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.rglob("*") if path.is_file()}
    os.kill(asleep, signal.SIGCONT)
    (woken,) = reports([asleep])
    assert made([woken]) == done
    assert woken["shards"] == alone[1]
    assert harness.files_of(store) == alone[0]
    written = {path for path in before if path.exists() and (path.stat().st_ino, path.stat().st_mtime_ns) != before[path]}
    # a shard that it had ready, and others committed alike, it may put in its place once more: never a ledger part
    assert {
        path.relative_to(store).as_posix() for path in written if "/c/" not in str(path) and "moments" not in str(path)
    } <= {"rejected.csv"}
    assert harness.left_behind(store) == []


def test_halves_at_once(start, reports, alone, harness, tmp_path):
    store = tmp_path / "s"
    found = reports([start(store, "--shard", "1/2"), start(store, "--shard", "2/2")])
    assert [report["built_tokens"] for report in found] == [-(-alone[1] // 2), alone[1] // 2]
    assert harness.files_of(store) == alone[0]


def test_the_command_itself_twice_at_once_and_one_is_killed(manifest, alone, harness, tmp_path):
    """New interpreters, decoding processes and all."""
    store = tmp_path / "s"
    script = "import d2st.cache.arrays as a; a.SHARD_FRAMES = 4; from d2st.cli import main; main()"
    command = [sys.executable, "-c", script, "cache", "build", str(manifest), "--cache", str(store), *OPTIONS]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    killed, other = (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **one_thread})
        for _ in range(2)
    )
    wait_for(lambda: committed(store) or killed.poll() is not None, "a shard is committed by either", timeout_s=120)
    killed.kill()
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    _, err_killed = killed.communicate()
    assert killed.returncode in (-signal.SIGKILL, 0), err_killed
    report = json.loads(out)
    assert report["shards"] == alone[1]
    assert made([report]) <= 2 * alone[1]
    assert harness.files_of(store) == alone[0]
