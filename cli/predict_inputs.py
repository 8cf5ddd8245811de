"""Which files `d2st predict` is to score: what was named, what lies in folders that were named, and what stdin lists."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["STDIN", "expand", "identity", "shown"]

STDIN = "-"


def expand(named: Iterable[Path], *, null: bool) -> list[Path]:
    """Each file once, in the order in which it was named; folders in natural order. A folder of numbered images is one sample.

    What does not exist stays in: it becomes a row that says so.

    Args:
        named: files and folders; "-" reads more of them from stdin, one a line.
        null: those on stdin end in NUL instead of newline, as `find -print0` writes them.
    """
    found: dict[Path, None] = {}  # keeps the order
    for path in named:
        listed = _listed(null=null) if str(path) == STDIN else [path]
        for one in listed:  # Path.is_dir raises for a name that is too long, and below a folder that may not be read
            found.update(dict.fromkeys(_below(one) if os.path.isdir(one) else [one]))
    return list(found)


def _listed(*, null: bool) -> list[Path]:
    data = sys.stdin.buffer.read()
    lines = data.split(b"\0") if null else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [Path(os.fsdecode(line)) for line in lines if line]


def _below(folder: Path) -> Iterator[Path]:
    """The samples in a folder."""
    from d2st.pipeline.manifest.layouts.clips import is_video
    from d2st.pipeline.manifest.walk import Ignored, walk

    for part in walk(folder, Ignored()):
        place = folder.joinpath(*part.parts)
        if is_video(part, frames_folders="auto"):
            yield place
        else:
            yield from (place / file.name for file in part.files)


def identity(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns, of a folder's files taken together; None where there is nothing to ask."""
    try:
        if not path.is_dir():
            status = path.stat()
            return status.st_size, status.st_mtime_ns
        inside = [entry.stat() for entry in os.scandir(path) if entry.is_file()]
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return sum(status.st_size for status in inside), max((status.st_mtime_ns for status in inside), default=0)


def shown(path: Path | str) -> str:
    """A path as text that can be stored and printed, bytes that are no UTF-8 escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")
