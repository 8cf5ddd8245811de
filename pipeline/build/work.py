"""Which shards a build still has to make, handed out one at a time, each to one builder alone.

A shard is the unit of work: its crops if they are missing, then its token maps. Others may be at work on the same store, so a shard is
claimed before it is begun; one that somebody else holds is passed over, and asked for again until it is there or its holder has died.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from d2st.cache.claims import Claims
from d2st.cache.errors import ConfigError
from d2st.cache.level import Level
from d2st.cache.staging import discard_staged, staged_shards
from d2st.pipeline.build.flow import Flow, Pipe

__all__ = ["SHARDS_AT_ONCE", "Task", "Work", "hand_out", "has_part", "own_shards", "pause", "stale_tokens"]

POLL_S = 1.0
SHARDS_AT_ONCE = 2  # claimed ones, beside those that files under way belong to


@dataclass(frozen=True)
class Task:
    """One shard to be made, which is ours: `needs_crops` or not, token maps too if `needs_tokens`."""

    shard: int
    needs_crops: bool
    needs_tokens: bool


def own_shards(shards: Collection[int], part: tuple[int, int] | None) -> list[int]:
    """The shards of part i of n (1-based): those with number % n == i - 1; all of them for None. Raises ConfigError for other parts."""
    if part is None:
        return sorted(shards)
    number, count = part
    if not 1 <= number <= count:
        raise ConfigError(
            f"there is no part {number} of {count}", fix="Count the parts from 1, such as --shard 1/4 to --shard 4/4"
        )
    return sorted(shard for shard in shards if shard % count == number - 1)


class Work:
    """Hands out the shards that are still to be made.

    Args:
        shards: those that this builder is to see to.
        crops: the level of their crops.
        tokens: the level of their token maps; None when crops alone are wanted.
        stale: shards whose token maps may be of other crops than those there.
        claims: who works on what; the claim on shard k is `<name>.<k>`.
        on_elsewhere: called with each shard that another builder has finished.
    """

    def __init__(
        self,
        shards: Collection[int],
        *,
        crops: Level,
        tokens: Level | None,
        stale: Collection[int] = (),
        claims: Claims,
        name: str,
        on_elsewhere: Callable[[int], None] = lambda shard: None,
    ) -> None:
        self.crops, self.tokens, self.name = crops, tokens, name
        self._stale = set(stale)
        self._claims = claims
        self._on_elsewhere = on_elsewhere
        done = crops.committed() if tokens is None else crops.committed() & tokens.committed()
        self._waiting = [shard for shard in sorted(shards) if shard not in done or shard in self._stale]
        self._held_by_others: dict[int, float] = {}  # when to ask again
        self.begun: set[int] = set()  # ours, not finished yet

    @property
    def waiting(self) -> list[int]:
        """Shards that nobody has finished and this builder has not begun, as far as it knows."""
        return list(self._waiting)

    def lacks(self, shard: int) -> tuple[bool, bool]:
        """Whether the crops and the token maps of a shard are missing right now."""
        no_crops = not has_part(self.crops, shard)
        no_tokens = self.tokens is not None and not has_part(self.tokens, shard)
        if self.tokens is not None and shard in self._stale and not no_crops and not no_tokens:
            no_tokens = _is_stale(self.crops, self.tokens, shard)
        return no_crops, no_tokens

    def take(self) -> Task | None:
        """The next shard, claimed; None when there is none to be had at the moment. Shards that others finished are dropped."""
        now = monotonic()
        for shard in list(self._waiting):
            if self._held_by_others.get(shard, 0.0) > now:
                continue
            if any(self.lacks(shard)):
                if not self._claims.take(self._key(shard)):
                    self._held_by_others[shard] = now + POLL_S
                    continue
                no_crops, no_tokens = self.lacks(shard)  # again: the claim may have come late
                if no_crops or no_tokens:
                    self._waiting.remove(shard)
                    self.begun.add(shard)
                    self._clear(shard, withdraw=shard in self._stale and no_tokens)
                    return Task(shard, no_crops, no_tokens)
                self._claims.release(self._key(shard))
            self._waiting.remove(shard)
            self._on_elsewhere(shard)
        return None

    def finish(self, shard: int) -> None:
        """Let go of a shard that is made."""
        self.begun.discard(shard)
        self._claims.release(self._key(shard))

    @contextmanager
    def letting_go(self) -> Iterator[None]:
        """Let go of every shard that was begun and not finished when the block ends."""
        try:
            yield
        finally:
            for shard in list(self.begun):
                self.finish(shard)

    def _key(self, shard: int) -> str:
        return f"{self.name}.{shard:06d}"

    def _clear(self, shard: int, *, withdraw: bool) -> None:
        """Remove what a builder that died in the middle of this shard left, and token maps of other crops."""
        for level in (self.crops, self.tokens):
            for number, folder in staged_shards(level.path) if level is not None else ():
                if number == shard:
                    discard_staged(level.path, shard, folder)
        if withdraw and self.tokens is not None:
            self.tokens.withdraw(shard)


def has_part(level: Level, shard: int) -> bool:
    """Whether a shard of the level is committed."""
    return (level.ledger / f"{shard:06d}.parquet").exists()


def stale_tokens(crops: Level, tokens: Level, *, without: Collection[int] = ()) -> set[int]:
    """Shards whose token maps were made from other crops than those that are there now (a repair made the crops anew, say).

    Args:
        without: shards that are not looked at, such as damaged ones.
    """
    return {shard for shard in crops.committed() & tokens.committed() - set(without) if _is_stale(crops, tokens, shard)}


def _is_stale(crops: Level, tokens: Level, shard: int) -> bool:
    return tokens.part(shard).source != crops.part(shard).content


def pause(flow: Flow, work: Work, shards_at_once: int, *, wait: bool) -> bool:
    """Wait until there may be something to do; False when there is nothing left to wait for."""
    if not work.waiting:
        return False
    if len(work.begun) >= shards_at_once:
        flow.wait(lambda: len(work.begun) < shards_at_once)
    elif wait:
        flow.wait(lambda: False, timeout_s=POLL_S)
    else:
        return False
    return True


def hand_out(flow: Flow, out: "Pipe[Task]", work: Work, *, wait: bool) -> None:
    """In place of `crop_media` where all shards have their crops: put each shard's task into `out`."""
    while True:
        if len(work.begun) < SHARDS_AT_ONCE and (task := work.take()) is not None:
            out.put(task)
        elif not pause(flow, work, SHARDS_AT_ONCE, wait=wait):
            break
    out.close()
