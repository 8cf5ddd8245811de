"""The journal file of a study: opened, locked, and mended after a crash.

The journal is locked by `JournalFileOpenLock`, which needs no symbolic links, and takes the lock of a dead holder over after 30 s.
(`JournalFileSymlinkLock` never does for a journal with a relative path: it asks for the age of a link that leads nowhere.)
https://optuna.readthedocs.io/en/stable/reference/generated/optuna.storages.journal.JournalFileBackend.html
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from d2st.adapter.sweep.propose import NAME
from d2st.cache.errors import RunError
from d2st.cache.files import explained

__all__ = ["JOURNAL", "lock_of", "locked", "mend", "open_study"]

JOURNAL = "journal.log"


@contextmanager
def locked(lock: Any) -> Iterator[None]:
    """Nobody else has the lock meanwhile."""
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # we were so slow that somebody took it from us: then trials are over-many, not wrong
            lock.release()


def lock_of(path: Path) -> Any:
    """The lock of a file, which lies beside it."""
    from optuna.storages.journal import JournalFileOpenLock

    return JournalFileOpenLock(str(path))


def mend(path: Path) -> None:
    """Cut off a last line that was torn by a power cut or a full disk: whoever appended to it would damage two records.

    Under the journal's own lock: others append to it at any time, and what they have written since it was read would be cut off too.
    """
    if not path.is_file():
        return
    with locked(lock_of(path)), path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def open_study(path: Path, pruner: Any) -> tuple[Any, Any]:
    """Optuna's storage and study in a journal, which is made if it is not there.

    Raises:
        RunError: it is damaged. StoreError: it can't be written, now or by any later call of either.
    """
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    def append(logs: list[dict[str, Any]]) -> None:
        with explained(path):
            write(logs)

    try:
        with explained(path):
            backend = JournalFileBackend(str(path), lock_obj=lock_of(path))
        write, backend.append_logs = backend.append_logs, append  # type: ignore[method-assign]
        storage = JournalStorage(backend)
        study = create_study(storage=storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}", fix="Restore it, or sweep under another --name") from error
    return storage, study
