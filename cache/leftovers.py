"""What killed builders leave behind: staged shards that were never committed, and temporary files. No reader ever looks at them."""

from dataclasses import dataclass
from pathlib import Path

from d2st.cache.files import SUFFIX
from d2st.cache.staging import staged_shards

__all__ = ["Leftover", "leftovers"]


@dataclass(frozen=True)
class Leftover:
    """One file or folder; `name` is relative to the store."""

    path: Path
    name: str
    bytes: int


def leftovers(store: Path) -> list[Leftover]:
    """Staging folders and temporary files of the whole store; those of builders at work look just the same."""
    levels = [path for path in (store / "crops", *sorted(store.glob("tokens*"))) if path.is_dir()]
    found = [folder for level in levels for _, folder in staged_shards(level)]
    small = sorted(store.rglob(f".*{SUFFIX}"))  # a repair writes beside any file
    found += [path for path in small if not {".staging", "claims"} & set(path.relative_to(store).parts)]
    return [Leftover(path, path.relative_to(store).as_posix(), _size(path)) for path in found]


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
