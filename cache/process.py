"""Which process this is, in words that other processes on the same machine can check, so that the death of a neighbour is known at once.

A process id alone names nothing: it is reused, means something else in another container, and says nothing about another machine. So it
goes with the host's name, the kernel's boot id, the inode of the pid namespace and the start time of the process (Linux, proc(5)). Where
there is no /proc, a process counts as gone only if no process of this host has its id.
"""

import os
import platform
from pathlib import Path

__all__ = ["ProcessId", "is_gone", "this_process"]

ProcessId = dict[str, str | int | None]  # JSON values


def this_process() -> ProcessId:
    """The calling process: host, boot, pid_namespace, pid, started (in clock ticks since the boot)."""
    return {**_place(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_gone(process: ProcessId) -> bool:
    """Whether `process` ran on this very machine and has ended. False whenever that can't be known from here."""
    pid = process.get("pid")
    if os.name != "posix" or not isinstance(pid, int) or pid <= 0:  # elsewhere os.kill(pid, 0) is not a question
        return False
    if any(process.get(key) != value for key, value in _place().items()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    started = _started(pid)
    return started == _ENDED or (started is not None and started != process.get("started"))


_ENDED = -1


def _place() -> ProcessId:
    return {
        "host": platform.node(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
    }


def _started(pid: int) -> int | None:
    """Start time of a process, `_ENDED` for one that is dead but not yet waited for, None when it can't be seen."""
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything; fields[0] is the third, the state
    return _ENDED if fields[0] in "ZX" else int(fields[19])


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
