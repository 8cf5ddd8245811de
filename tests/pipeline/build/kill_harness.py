"""Kill whatever works on a store, at any of its file operations, hundreds of times: let it go on, and compare with a store that never met
a kill. Used by test_kill.py and, for long runs, tests/bench/kill.py.

    with Server() as server:
        world = World(server, folder, make_media)
        trial = world.trial("build", [{"match": "^link tokens/ledger", "nth": 2, "when": "before"}])
        assert not trial.faults
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

__all__ = ["Outcome", "Server", "Trial", "World", "files_of", "left_behind"]

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
TEMPORARY = re.compile(r"(^|/)\.[^/]*\.partial$|/\.staging/")
NO_CONTENT = re.compile(r"^claims/|^rejected\.csv$")
OF_A_SHARD = re.compile(r"/ledger/0*(\d+)\.parquet$|/moments/0*(\d+)\.safetensors$|/c/(\d+)/|/\.staging/0*(\d+)\.")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        killed: by SIGKILL; then `point` names the operation, such as "after link tokens/ledger/N.parquet" ("": a kill from outside).
        result: what the job returned.
        operations: the file operations of a job that was not killed.
    """

    killed: bool
    point: str
    result: Any
    operations: list[str]
    seconds: float


class Server:
    """The process of kill_server.py; a context manager."""

    def __enter__(self) -> "Server":
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("kill_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, job: Mapping[str, Any]) -> Outcome:
        """Do one job: "job" is a name of `kill_server.JOBS`, "store" the folder, other keys are its arguments; and "kill" may be one of

            {"at": k, "when": "before" | "after" | "half"}                at the k-th operation, from 1
            {"match": regular expression, "nth": n, "when": ...}          at the n-th operation that it matches, from 1
            {"after_s": seconds}                                          from outside

        "when" may be "stop" too (SIGSTOP in place of SIGKILL), or "lose": the store is deleted, and the job goes on.
        "watch": False leaves the operations alone, "expires_s" makes claims of the silent expire sooner.

        Raises:
            AssertionError: the job failed or hung.
        """
        return self.wait(self.start(job))

    def start(self, job: Mapping[str, Any]) -> int:
        """Begin a job, which runs beside others; returns its process id, which signals may be sent to."""
        return self._ask({"start": dict(job)})

    def wait(self, pid: int) -> Outcome:
        """How a job that was started has ended, or ends now. Raises AssertionError as `run` does."""
        answer = self._ask({"wait": pid})
        if error := answer.pop("error"):
            raise AssertionError(f"the job failed:\n{error}")
        return Outcome(**answer)

    def _ask(self, request: Mapping[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise AssertionError(f"the server died, exit code {self._process.wait()}")
        return json.loads(line)


def files_of(store: Path) -> dict[str, bytes]:
    """Every file that a store is made of, by name: not claims, not the list for people, not what dead builders left half-written."""
    names = ((path, path.relative_to(store).as_posix()) for path in sorted(store.rglob("*")) if path.is_file())
    return {name: path.read_bytes() for path, name in names if not NO_CONTENT.search(name) and not TEMPORARY.search(name)}


def left_behind(store: Path) -> list[str]:
    """Temporary files, and what lies in staging areas."""
    names = (path.relative_to(store).as_posix() for path in sorted(store.rglob("*")))
    return [name for name in names if TEMPORARY.search(name) and not NO_CONTENT.search(name)]


@dataclass
class Trial:
    """A job that was killed, perhaps several times, and then came to its end.

    Attributes:
        points: where it was killed.
        faults: what is wrong with the store now; empty is what we want.
        left: what the dead left behind, of which gc has removed all; `left_bytes` in files.
    """

    scenario: str
    points: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    left_bytes: int = 0


@dataclass(frozen=True)
class _Scenario:
    """`before`: jobs that make the store to start from, or functions that change it; `job` is the one to be killed."""

    before: Sequence[Mapping[str, Any] | Callable[[Path], None]]
    job: Mapping[str, Any]


class World:
    """Media, manifests, and for each scenario the store to start from and what it becomes without a kill.

    Args:
        folder: for all of it.
        make_media: writes files and returns their manifest, (folder, videos=, images=).
    """

    def __init__(self, server: Server, folder: Path, make_media: Callable[..., pl.DataFrame]) -> None:
        self.server, self.folder = server, folder
        root = folder / "media"
        root.mkdir()
        manifest = make_media(root, videos=1, images=7)
        shutil.copytree(root, folder / "lacking")
        (folder / "lacking" / "i3.png").unlink()
        kind = manifest.schema["split"]
        for name, rows in {
            "all": manifest,
            "few": manifest[:5],
            "less": manifest.filter(~pl.col("path").is_in(["i1.png", "i5.png", "v0.mp4"])),
            "moved": manifest.with_columns(
                split=pl.when(pl.col("split") == "val").then(pl.lit("train")).otherwise("split").cast(kind)
            ),
        }.items():
            rows.write_parquet(folder / f"{name}.parquet")
        build = {"job": "build", "root": str(root), "manifest": str(folder / "all.parquet")}
        few, less, moved = ({**build, "manifest": str(folder / f"{name}.parquet")} for name in ("few", "less", "moved"))
        int8 = {**build, "dtype": "int8"}
        half = {"job": "encode", "name": "half", "dtype": "bfloat16"}
        self.scenarios = {
            "build": _Scenario([], build),
            "build int8": _Scenario([], int8),
            "append": _Scenario([few], build),
            "append, splits moved": _Scenario([{**few, "dtype": "int8"}], {**moved, "dtype": "int8"}),
            "retry": _Scenario([{**build, "root": str(folder / "lacking")}], {**build, "retry": True}),
            "encode": _Scenario([build], half),
            "add layers": _Scenario([int8], {"job": "add_layers", "layers": "block_1"}),
            "repair": _Scenario([int8, half, damage], {"job": "repair", "root": str(root)}),
            "gc": _Scenario([int8, half, {**less, "dtype": "int8"}], {"job": "gc"}),
        }
        self._made: dict[str, tuple[Path, dict[str, bytes], list[str]]] = {}

    def operations(self, scenario: str) -> list[str]:
        """The file operations that the job takes when nothing stops it."""
        return self._start(scenario)[2]

    def trial(self, scenario: str, kills: Sequence[Mapping[str, Any]]) -> Trial:
        """Run the job with each of `kills` in turn, then to its end, and look at the store."""
        start, expected, _ = self._start(scenario)
        store = self._copy(start)
        job, trial = {**self.scenarios[scenario].job, "store": str(store)}, Trial(scenario)
        touched = []
        for kill in kills:
            outcome = self.server.run({**job, "kill": kill})
            if outcome.killed:
                trial.points.append(outcome.point or "from outside")
            touched.append(_committed(store))
        self.server.run(job)
        trial.faults += [f"verify: {damage}" for damage in self._damages(store)]
        found = files_of(store)
        trial.faults += [f"differs: {name}" for name in sorted(found | expected) if found.get(name) != expected.get(name)]
        if job["job"] in ("build", "encode", "add_layers"):
            trial.faults += sorted({f"made again: {name}" for before in touched for name in _written_again(store, before)})
        trial.left = left_behind(store)
        trial.left_bytes = sum((store / name).stat().st_size for name in trial.left if (store / name).is_file())
        if trial.left and not trial.faults:
            self.server.run({"job": "gc", "store": str(store)})
            trial.faults += [f"gc left: {name}" for name in left_behind(store)]
        shutil.rmtree(store)
        return trial

    def _start(self, scenario: str) -> tuple[Path, dict[str, bytes], list[str]]:
        if scenario not in self._made:
            start = self.folder / f"start-{len(self._made)}"
            for step in self.scenarios[scenario].before:
                if callable(step):
                    step(start)
                else:
                    self.server.run({**step, "store": str(start)})
            end = self._copy(start)
            outcome = self.server.run({**self.scenarios[scenario].job, "store": str(end)})
            assert self._damages(end) == []
            self._made[scenario] = start, files_of(end), outcome.operations
            shutil.rmtree(end)
        return self._made[scenario]

    def _copy(self, start: Path) -> Path:
        store = self.folder / f"store-{uuid4().hex[:8]}"
        if start.exists():
            shutil.copytree(start, store)
        return store

    def _damages(self, store: Path) -> list[str]:
        return self.server.run({"job": "verify", "store": str(store)}).result["damages"]


def damage(store: Path) -> None:
    """A bit of a frame and of metadata each, and lost files: every way of mending is taken."""
    for name, at in (("crops/frames/c/0/0/0/0", 4000), ("tokens/block_2/maps/c/1/0/0/0", 99), ("tokens/zarr.json", 60)):
        data = bytearray((store / name).read_bytes())
        data[at] ^= 8
        (store / name).write_bytes(data)
    lost = ("tokens-half/moments/000000.safetensors", "tokens/block_0/scales/zarr.json", "tokens-half/ledger/000001.parquet")
    for name in (*lost, "plan/00000.parquet", "tokens/calibration.safetensors"):
        (store / name).unlink()


_Files = dict[tuple[str, int], dict[tuple[int, int], bytes]]  # (level, shard) -> (inode, time of writing) -> content


def _committed(store: Path) -> _Files:
    """The files of each committed shard, in their places or still in staging."""
    files: _Files = {}
    for path, key in _shard_files(store):
        state = path.stat()
        files.setdefault(key, {})[state.st_ino, state.st_mtime_ns] = path.read_bytes()
    return {key: found for key, found in files.items() if (store / key[0] / "ledger" / f"{key[1]:06d}.parquet").exists()}


def _written_again(store: Path, before: _Files) -> list[str]:
    """Files of shards that were committed `before`, with the content that they had, that were written since."""
    again = []
    for path, key in _shard_files(store):
        if key in before and ".staging" not in path.parts:
            state, had = path.stat(), before[key]
            if (state.st_ino, state.st_mtime_ns) not in had and path.read_bytes() in had.values():
                again.append(path.relative_to(store).as_posix())
    return again


def _shard_files(store: Path) -> list[tuple[Path, tuple[str, int]]]:
    found = []
    for path in store.rglob("*"):
        name = path.relative_to(store).as_posix()
        if path.is_file() and not name.endswith(".partial") and (match := OF_A_SHARD.search(name)):
            found.append((path, (name.split("/")[0], int(next(group for group in match.groups() if group)))))
    return found
