"""Passes of a robustness study that are done, kept until all are: what is stopped goes on with the next pass.

A file is named by a digest of everything that its scores depend on, so that what another detector, cache or choice of samples left is
never taken for one's own.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.score_table import PREDICTIONS
from d2st.cache.files import atomic_file

__all__ = ["Passes"]


class Passes:
    """The passes in `folder`; `about` are the JSON values that all of them depend on."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._folder, self._about = folder, _digest(about)

    def has(self, **step: Any) -> bool:
        """Whether the pass with these JSON values was done before."""
        return self._file(step).is_file()

    def scored(self, make: Callable[[], pl.DataFrame], **step: Any) -> pl.DataFrame:
        """The predictions (`score.PREDICTIONS`) of the pass: those kept, else those that `make` gives, which are then kept.

        Raises:
            StoreError: the disk is full or not writable.
        """
        file = self._file(step)
        if file.is_file():
            try:
                return pl.read_parquet(file, glob=False).match_to_schema(PREDICTIONS)
            except (OSError, pl.exceptions.PolarsError):
                file.unlink()  # damaged, and only a saving: it is made again
        made = make()
        with atomic_file(file) as stream:
            made.write_parquet(stream)
        return made

    def clear(self) -> None:
        """Remove them all: the study is on the disk as a whole."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, step: Mapping[str, Any]) -> Path:
        return self._folder / f"{_digest([self._about, step])}.parquet"


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
