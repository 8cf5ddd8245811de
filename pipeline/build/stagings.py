"""The shards that are being written: whatever ends a build, what they have on the disk so far is removed."""

from contextlib import ExitStack
from types import TracebackType

from d2st.cache.level import Level, StagedShard

__all__ = ["Stagings"]


class Stagings:
    """Open `Level.stage` blocks that outlive the function which opened them; a context manager that closes the rest."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[StagedShard, ExitStack]] = {}  # by id; the shard is held, so that ids are not reused

    def __enter__(self) -> "Stagings":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for _, stack in list(self._open.values()):
            stack.close()
        self._open.clear()

    def open(self, level: Level, shard: int) -> StagedShard:
        """Begin to write a shard."""
        stack = ExitStack()
        staged = stack.enter_context(level.stage(shard))
        self._open[id(staged)] = staged, stack
        return staged

    def close(self, staged: StagedShard) -> None:
        """End it; what was not committed is removed."""
        self._open.pop(id(staged))[1].close()
