"""Files that are either there in full or not there: temporary file, fsync, rename, fsync of the folder.

A rename alone survives a killed process but not a power cut, hence both fsyncs.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from d2st.cache.errors import D2stError, StoreError

__all__ = ["atomic_file", "remove_leftovers", "sync_folder", "write_atomic"]

SUFFIX = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; on success it takes `path`'s place, on any error it is removed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, D2stError):
            raise
        raise _explained(error, path) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing. Raises StoreError as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


def remove_leftovers(folder: Path) -> int:
    """Delete what killed writers left under `folder`; returns how many files. Only safe while nobody else writes there."""
    leftovers = [path for path in folder.rglob(f".*{SUFFIX}") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    if os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"no space left to write {path}",
            fix="Free some space and run the same command again; everything finished so far is kept",
        )
    return StoreError(f"can't write {path}: {error.strerror or error}", fix="Check the folder's permissions")
