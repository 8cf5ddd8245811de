"""Files that are either there in full or not there: temporary file, fsync, rename (or link), fsync of the folder.

A rename alone survives a killed process but not a power cut, hence both fsyncs.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from d2st.cache.errors import D2stError, StoreError

__all__ = [
    "NO_LINKS",
    "atomic_file",
    "create_exclusive",
    "explained",
    "link_exclusive",
    "open_new",
    "sync_folder",
    "write_atomic",
]

SUFFIX = ".partial"
NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
}  # what `os.link` says where the file system has none


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; on success it takes `path`'s place, on any error it is removed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    with explained(path), _temporary(path) as (temporary, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing. Raises StoreError as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


def create_exclusive(path: Path, data: bytes) -> bool:
    """Write `data` to `path`, all or nothing, unless something is there already; returns whether it was written."""
    with explained(path), _temporary(path) as (temporary, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return link_exclusive(temporary, path)


def link_exclusive(source: Path, target: Path) -> bool:
    """Let `target` be `source` too, unless it exists: of several that try, on any machine, one alone succeeds.

    Raises:
        FileNotFoundError: `source` is gone.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists():  # a file system without hard links, such as exFAT: nearly as good, one writer at a time
            return False
        write_atomic(target, source.read_bytes())
    sync_folder(target.parent)
    return True


def open_new(path: Path) -> BinaryIO:
    """Open `path` for writing. Its folder is made, and made once more should somebody clear it away at this very moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}{SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield temporary, file
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    if os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, D2stError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left to write {path}",
                fix="Free some space and run the same command again; everything finished so far is kept",
            ) from error
        raise StoreError(f"can't write {path}: {error.strerror or error}", fix="Check the folder's permissions") from error
