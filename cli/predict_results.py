"""The table that `d2st predict --out` fills: one row a file, safe against being killed, and gone on with by the next run.

While a run goes on, each row is appended to a journal beside the table, so kill -9 loses nothing that was scored, and a power cut at most
`SYNC_S`. The table itself is written whole, at the end and on Ctrl-C. Every row says which file it is of (size, time of change) and which
detector and settings made it: a row holds as long as all of these do.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from d2st.cache.errors import ConfigError, StoreError, UsageError
from d2st.cli.predict_inputs import identity, shown
from d2st.cli.predict_rows import COLUMNS, SETTINGS, as_row

if TYPE_CHECKING:
    import polars as pl

    from d2st.cache.errors import D2stError
    from d2st.prediction import Prediction

__all__ = ["Results", "check_name"]

SYNC_S = 10.0
# failures that may go away although the file stays as it is
PASSING = ("missing", "unreadable", "decoder_crashed", "timeout")


class Results:
    """The table at `path` (.parquet or .csv) and its journal. A context manager, which writes the table when it is left.

    Args:
        settings: values of `SETTINGS` that this run scores with.
        fresh: forget what is there.

    Raises:
        UsageError: another ending.
        ConfigError: what is there was made by another checkpoint, or with other settings.
        StoreError: it can't be read or written, or another run is writing it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        check_name(path)
        self.path = path
        self._settings = dict(settings)
        self._journal_path = path.with_name(f"{path.name}.journal")
        self._journal = _open_locked(self._journal_path)
        try:
            if fresh:
                self._journal.truncate(0)
                path.unlink(missing_ok=True)
            self._kept = self._read()
            self._refuse_others()
        except BaseException:
            if not self._journal.seek(0, os.SEEK_END):
                self._journal_path.unlink()
            self._journal.close()
            raise
        self._known = {row[0]: row[1:] for row in self._kept.select("path", "size_bytes", "mtime_ns", "reason").iter_rows()}
        self._synced = monotonic()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._write_table()
            self._journal_path.unlink()
        finally:
            self._journal.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            from d2st.cli.show import stderr

            stderr().print(f"stopped; {self.path} has what was scored, and the same command goes on from there", markup=False)

    def has(self, path: Path) -> bool:
        """Whether there is a row for this very file that holds."""
        size, mtime, reason = self._known.get(shown(path), (None, None, None))
        return size is not None and reason not in PASSING and identity(path) == (size, mtime)

    def add(self, path: Path, found: "Prediction | D2stError") -> None:
        """Append the row of a file that was just scored."""
        size, mtime = identity(path) or (None, None)
        row = {"path": shown(path), "size_bytes": size, "mtime_ns": mtime, **as_row(found), **self._settings}
        self._journal.write(json.dumps(row).encode() + b"\n")
        self._journal.flush()
        if monotonic() - self._synced > SYNC_S:
            os.fsync(self._journal.fileno())
            self._synced = monotonic()

    def _read(self) -> "pl.DataFrame":
        """What the table and the journal hold, the latest row of each file."""
        import polars as pl

        rows = pl.DataFrame(_read_journal(self._journal, self._journal_path), schema=_schema(), orient="row")
        return pl.concat([_read_table(self.path), rows]).unique("path", keep="last", maintain_order=True)

    def _refuse_others(self) -> None:
        for row in self._kept.select(SETTINGS).unique().iter_rows(named=True):
            differing = [
                f"{name} {row[name]} there, {value} here" for name, value in self._settings.items() if row[name] != value
            ]
            if differing:
                raise ConfigError(
                    f"{self.path} holds results of other settings: {'; '.join(differing)}",
                    fix="Name another file with --out, or start this one anew with --fresh",
                )

    def _write_table(self) -> None:
        from d2st.cache.files import atomic_file

        table = self._read()
        with atomic_file(self.path) as file:
            table.write_parquet(file) if self.path.suffix == ".parquet" else table.write_csv(file)


def check_name(path: Path) -> None:
    """Raise UsageError unless a table can be written under this name."""
    if path.suffix not in (".parquet", ".csv"):
        raise UsageError(f"--out {path} has neither of the endings .parquet and .csv", fix="Name it results.parquet, say")


def _schema() -> "dict[str, Any]":
    import polars as pl

    return {name: getattr(pl, kind) for name, kind in COLUMNS.items()}


def _read_table(path: Path) -> "pl.DataFrame":
    import polars as pl

    schema = _schema()
    if not path.exists():
        return pl.DataFrame(schema=schema)
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, schema_overrides=schema).match_to_schema(pl.Schema(schema))
        return pl.read_parquet(path, glob=False).match_to_schema(pl.Schema(schema))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{path} is no table that this command wrote, or it is damaged: {str(error).splitlines()[0]}",
            fix="Name another file with --out, or start this one anew with --fresh",
        ) from error


def _read_journal(file: BinaryIO, path: Path) -> list[tuple[Any, ...]]:
    """The journal's rows. What a killed run left half-written at its end is cut off."""
    file.seek(0)
    rows, good = [], 0
    for line in file:
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        if row.keys() != COLUMNS.keys():
            raise StoreError(f"{path} was written by another version of d2st", fix="Start anew with --fresh")
        rows.append(tuple(row[name] for name in COLUMNS))
        good += len(line)
    file.seek(good)
    file.truncate()
    return rows


def _open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and appending, for this process alone (where the system has such locks)."""
    from d2st.cache.files import explained

    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    try:
        import fcntl
    except ImportError:  # Windows refuses to remove an open file, which is enough
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreError(f"another run is writing {path}", fix="Wait for it, or name another file with --out") from error
    if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:  # that run has just ended and removed it
        file.close()
        return _open_locked(path)
    return file
