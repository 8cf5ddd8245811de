"""Counts the file operations below a store, and kills this very process at one of them. Part of the server (`kill_server`).

Patched are the functions through which everything in a store comes into being or goes: before an operation, right after it, or (writes)
when half of the bytes are on the disk, the process can send itself SIGKILL; or SIGSTOP, or delete the whole store. fsync is counted but
not done: what a killed process wrote is safe with the kernel, and a hundred builds are twice as fast.
"""

import builtins
import io
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Watch"]


class Watch:
    """One process and one store.

    Args:
        store: its folder, which need not be there yet.
        kill: {"at": k} or {"match": pattern, "nth": n}, and "when"; see `kill_harness.Server.run`.
        tell: called with what is known at the end; must not be interrupted half-way.
    """

    def __init__(self, store: str, kill: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        self.store, self.kill, self.tell = os.path.realpath(store), kill, tell
        self.operations: list[str] = []
        self._matched = 0
        self._lock = threading.Lock()

    def install(self) -> None:
        """From now on count."""
        for name in ("replace", "link", "rename"):
            self._patch(name, subject=1)
        for name in ("unlink", "rmdir", "mkdir", "fsync"):
            self._patch(name, subject=0)
        real_open = io.open

        def watched_open(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            what = self._what(file, None) if mode in ("wb", "xb", "ab") else None
            if what is None:
                return real_open(file, mode, *args, **more)
            with self.at(f"open {what}"):
                opened = io.FileIO(file, mode.replace("b", ""))
            return _WatchedFile(opened, self, what)

        io.open = builtins.open = watched_open

    def _patch(self, name: str, *, subject: int) -> None:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            what = self._what(args[subject], more.get("dir_fd"), moved_from=args[0] if subject else None)
            if what is None:
                return real(*args, **more)
            with self.at(f"{name} {what}"):
                return None if name == "fsync" else real(*args, **more)

        setattr(os, name, call)

    def _what(self, path: Any, folder: int | None, *, moved_from: Any = None) -> str | None:
        """What a path is, in words that two runs share; None outside of the store."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
        path = os.path.abspath(os.fspath(path))
        if path != self.store and not path.startswith(self.store + "/"):
            return None
        name = _described(path[len(self.store) + 1 :])
        if moved_from is not None and "/.staging/" in os.fspath(moved_from) and "/.staging/" not in path:
            name += " from staging"
        return name

    def at(self, operation: str) -> "_Step":
        """To be put around one operation: dies before or after it, if it is the one."""
        with self._lock:
            self.operations.append(operation)
            chosen = self.kill.get("at") == len(self.operations)
            if "match" in self.kill and re.search(self.kill["match"], operation):
                self._matched += 1
                chosen = self._matched == self.kill.get("nth", 1)
        return _Step(self, operation, self.kill.get("when", "before") if chosen else "")

    def die(self, point: str) -> None:
        """Say where, and end as if by `kill -9`."""
        self.tell({"killed": True, "point": point})
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # never: the signal comes first


@dataclass
class _Step:
    watch: Watch
    operation: str
    when: str

    def __enter__(self) -> "_Step":
        if self.when == "before" or (self.when == "half" and not self.operation.startswith("write ")):
            self.watch.die(f"before {self.operation}")
        if self.when == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.when == "lose":
            shutil.rmtree(self.watch.store)
        return self

    def __exit__(self, *_: object) -> None:
        if self.when == "after":
            self.watch.die(f"after {self.operation}")


class _WatchedFile(io.BufferedWriter):
    """A file whose writes are operations too; they can end in the middle."""

    def __init__(self, raw: io.FileIO, watch: Watch, what: str) -> None:
        super().__init__(raw)
        self._watch, self._what = watch, what

    def write(self, data: Any) -> int:
        step = self._watch.at(f"write {self._what}")
        if step.when == "half":
            half = memoryview(data).cast("B")
            super().write(half[: len(half) // 2])
            self.flush()
            self._watch.die(f"half of {step.operation}")
        with step:
            done = super().write(data)
            if step.when == "after":
                self.flush()
            return done


def _described(name: str) -> str:
    """A path below the store as what it is: "crops/ledger/N.parquet", "tokens/staging/block_0/maps/shard", "claims/builder"."""
    name = re.sub(r"(^|/)\.([^/]+)\.[0-9a-f]{12}\.partial$", r"\1\2 (temporary)", name)
    name = re.sub(r"\.staging/\d{6}\.(dead|[0-9a-f]{12})", lambda found: "dead" if found[1] == "dead" else "staging", name)
    name = re.sub(r"/c/\d+(/0)+$", "/shard", name)
    name = re.sub(r"/c(/\d+)*$", "/folder", name)
    name = re.sub(r"^claims/.*\.(builder|new|g\d+)$", r"claims/\1", name)
    return re.sub(r"\d{5,6}(?=\.(parquet|safetensors))", "N", name) or "store"
