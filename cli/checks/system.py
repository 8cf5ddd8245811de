"""The machine: versions, cores, memory, free disk."""

import os
import platform
import shutil
from collections.abc import Iterator

from d2st.cli.checks.check import REINSTALL, Check, attempt
from d2st.cli.show import human_bytes

__all__ = ["checks"]

LITTLE_DISK = 20 * 2**30  # bytes; a small cache with its crops


def checks() -> Iterator[Check]:
    yield attempt("d2st", _own_version, fix=REINSTALL.format("d2st"))
    yield Check("python", "ok", platform.python_version())
    yield Check("system", "ok", platform.platform())
    try:
        memory = human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        memory = "unknown"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", "ok", f"{usable} of {os.cpu_count()} cores usable, memory {memory}")
    free = shutil.disk_usage(".").free
    little = free < LITTLE_DISK
    fix = "d2st cache plan says how much a cache needs; write it to another disk with --cache" if little else ""
    yield Check("disk", "warning" if little else "ok", f"{human_bytes(free)} free in the current folder", fix)


def _own_version() -> str:
    from d2st import __version__

    return __version__
