"""What a tracker must know to go on with a resumed stage: which record is ours, and how far it has come.

A step that a resumed stage does again is not sent again: it would give the same values. The last step is written before its point is sent,
because a crash between the two then loses a point, where the other order would double it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from d2st.adapter.train.rundir import read_json
from d2st.adapter.train.track.protocol import Point
from d2st.cache.files import write_atomic

__all__ = ["Memory"]


class Memory:
    """The id of a stage's record in a tracker, and the last step that it was given of each kind of point, in a file of the stage's folder.

    Args:
        path: of the file; need not exist.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        stored = read_json(path) if path.is_file() else {}
        self._path = path
        self._last: dict[str, int] = stored.get("last_step", {})
        self.id: str | None = stored.get("id")

    def keep_id(self, name: str) -> None:
        """Remember which record is ours."""
        self.id = name
        self._write()

    def new(self, points: Sequence[Point]) -> list[Point]:
        """Those points that were never sent; from now on they count as sent."""
        chosen = [point for point in points if point.step > self._last.get(point.kind, -1)]
        if chosen:
            self._last |= {point.kind: point.step for point in chosen}
            self._write()
        return chosen

    def _write(self) -> None:
        document = {"id": self.id, "last_step": self._last}
        write_atomic(self._path, (json.dumps(document, sort_keys=True) + "\n").encode())
