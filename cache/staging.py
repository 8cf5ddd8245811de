"""How a shard comes into being: written apart, committed by one exclusive link of its ledger part, then moved into place.

    tokens/.staging/000005.3f9c2a71d04e/block_2/maps/c/5/0/0/0     the same names as in the level
    tokens/.staging/000005.3f9c2a71d04e/part.parquet               linked to tokens/ledger/000005.parquet: from then on the shard exists

`link` fails when the part is there already, on this machine or another: a builder that was asleep while others took its work over can't
touch what they committed. Whoever opens the level finishes the moves of a builder that died between the link and the last of them; a staged
part that equals the committed one, byte for byte, says that the files beside it belong to it.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from d2st.cache.errors import StoreError
from d2st.cache.files import explained, link_exclusive, open_new, sync_folder, write_atomic
from d2st.cache.shard import FileDigest, ShardWriter

__all__ = ["Staging", "discard_staged", "roll_forward", "staged_shards"]

FOLDER = ".staging"
PART = "part.parquet"


class Staging:
    """One shard being written. Use `Level.stage`, which also cleans up.

    Args:
        level: the level's folder.
        shard: its number.
    """

    def __init__(self, level: Path, shard: int) -> None:
        self.level, self.shard = level, shard
        self.path = level / FOLDER / f"{shard:06d}.{uuid4().hex[:12]}"
        self._writers: dict[str, ShardWriter] = {}
        with explained(self.path):
            self.path.mkdir(parents=True)

    def writer(self, name: str, *, slots: int) -> ShardWriter:
        """A writer for the file `name`, relative to the level's folder; `commit` closes it."""
        self._writers[name] = ShardWriter(self.path / name, slots=slots)
        return self._writers[name]

    def write(self, name: str, data: bytes) -> None:
        """Add a small derived file that certifies itself; the ledger does not list it."""
        target = self.path / name
        with explained(target), open_new(target) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> dict[str, FileDigest]:
        """Finish the files; returns what the ledger lists of them."""
        files = {name: writer.close() for name, writer in self._writers.items()}
        for name in files:
            if not (self.path / name).is_file():
                raise FileNotFoundError(name)
        return files

    def publish(self, part: bytes, *, replace: bool) -> bool:
        """Link the ledger part and move the files; False when the shard exists already (and `replace` is not wanted)."""
        ledger = self.level / "ledger" / f"{self.shard:06d}.parquet"
        staged = self.path / PART
        with explained(ledger):
            ledger.parent.mkdir(exist_ok=True)
            with open(staged, "wb") as file:
                file.write(part)
                file.flush()
                os.fsync(file.fileno())
            for folder in sorted({staged.parent, *(path.parent for path in self.path.rglob("*"))}):
                sync_folder(folder)
            if replace:
                write_atomic(ledger, part)
            elif not link_exclusive(staged, ledger):
                return False
            _move_into_place(self.level, self.path)
        return True

    def abandon(self) -> None:
        """Throw away what was not published; finish what was, should an interrupt have come right after the link."""
        for writer in self._writers.values():
            writer.abandon()
        discard_staged(self.level, self.shard, self.path)


def staged_shards(level: Path) -> list[tuple[int, Path]]:
    """What lies in a level's staging area: (shard, folder), of builders that are at work or were killed."""
    folders = sorted((level / FOLDER).iterdir()) if (level / FOLDER).is_dir() else []
    return [(int(folder.name[:6]), folder) for folder in folders if folder.name[:6].isdigit()]


def roll_forward(level: Path) -> None:
    """Finish what a builder began that died right after its commit. Raises StoreError when the folder can't be written."""
    for shard, folder in staged_shards(level):
        if _is_committed(level, shard, folder):
            try:
                _move_into_place(level, folder)
            except OSError as error:
                raise StoreError(
                    f"shard {shard} of {level} was committed, but its files still lie in {folder}, and can't be moved: {error}",
                    fix="Run `d2st cache build` once where the store can be written",
                ) from error


def discard_staged(level: Path, shard: int, folder: Path) -> None:
    """Remove a dead builder's unfinished work, or finish it if it was committed after all."""
    dead = folder.with_name(f"{folder.name[:19]}.dead")
    with suppress(FileNotFoundError):  # somebody else was faster
        folder.rename(dead)  # from here on its builder, should it wake up, can't link its part any more
        if _is_committed(level, shard, dead):
            _move_into_place(level, dead)
        shutil.rmtree(dead, ignore_errors=True)


def _is_committed(level: Path, shard: int, folder: Path) -> bool:
    try:
        return (folder / PART).read_bytes() == (level / "ledger" / f"{shard:06d}.parquet").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False


def _move_into_place(level: Path, staged: Path) -> None:
    """Idempotent; two processes may do it at once. The part goes last: while it is there, the moves are not finished."""
    moved = set()
    files = [Path(folder, name) for folder, _, names in os.walk(staged) for name in names]  # `walk` endures that folders go
    for source in sorted(path for path in files if path != staged / PART):
        target = level / source.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just moved it
            os.replace(source, target)
        moved.add(target.parent)
    for folder in moved:
        inside = folder.relative_to(level)
        for parent in (inside, *inside.parents):
            sync_folder(level / parent)
    (staged / PART).unlink(missing_ok=True)
    shutil.rmtree(staged, ignore_errors=True)
