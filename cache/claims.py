"""Who builds what right now: several builders, on one machine or many, share a store's shards without computing any of them twice.

    claims/<id>.builder              which process is at work, and at what (`cache.presence`)
    claims/<key>.g0, <key>.g1, ...   who claimed `key`, and who took it over; the highest counts

A name `<key>.gN` is created exclusively, and once: a claim that was let go stays, marked as free, and whoever comes next, or takes over
from a dead holder, creates `<key>.g(N+1)`. Since nothing is reused there is nothing that a slow or woken process could mistake for
something else. The last one to leave sweeps the folder. Nothing here guards the data, the exclusive commit of a shard does that
(`cache.staging`): so a claim that is lost, or granted late, costs time alone. After `take`, look whether the work is still to be done.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from d2st.cache.files import explained
from d2st.cache.presence import LEAVING, TEMPORARY, Builder, Presence, read_if_there

__all__ = ["EXPIRES_S", "Builder", "Claims"]

EXPIRES_S = 60.0

_FREE = b"free"


class Claims:
    """This process among those at work on a store; a context manager. Its methods may be called from any thread.

    Args:
        folder: the store's `claims` folder; it is made, its parent must exist.
        purpose: "build" shares the store with other builds; "gc" and "repair" keep builds out, and call `alone` before they start.
        expires_s: seconds without a sign of life after which a holder counts as dead; the same for all processes.

    Raises:
        StoreError: on entry: the folder can't be written, or a gc or repair is at work.
    """

    def __init__(self, folder: Path, *, purpose: str, expires_s: float = EXPIRES_S) -> None:
        self.folder = folder
        self._presence = Presence(folder, purpose=purpose, expires_s=expires_s)
        self._held: dict[str, int] = {}  # generation by key
        self._lock = threading.RLock()

    def __enter__(self) -> "Claims":
        with self._locked():
            self.folder.mkdir(exist_ok=True)
            self._presence.appear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with suppress(OSError), self._locked():  # a folder that can't be written any more keeps nobody: they see us expire
            for key in list(self._held):
                self.release(key)
            if self._presence.beat():
                self._presence.announce(LEAVING)
                if all(other.purpose == LEAVING for other in self._presence.others()):
                    self._sweep()
        self._presence.vanish()

    def take(self, key: str) -> bool:
        """Claim `key`: True when it is ours, new or from a dead holder; False while somebody living holds it.

        Raises:
            StoreError: the folder can't be written, or we slept for so long that a gc or repair has begun.
        """
        with self._locked():
            generation = 0
            while True:
                if self._presence.appear():  # we had been taken for dead, and perhaps swept away
                    self._held.clear()
                    generation = 0
                claim = self._claim(key, generation)
                if self._presence.create(claim.name, self._presence.name.encode()):
                    if self._presence.beat():  # else nobody would believe this claim
                        self._held[key] = generation
                        return True
                elif self.still_mine(key):
                    return True
                elif not self._claim(key, generation + 1).exists() and self._is_held(claim):  # one taken over holds nothing
                    return False
                else:
                    generation += 1

    def release(self, key: str) -> None:
        """Let `key` go, after its work is done or has failed. If it has been taken over from us, nothing happens."""
        with self._locked():
            if self.still_mine(key):
                self._presence.write(self._claim(key, self._held[key]).name, _FREE)
            self._held.pop(key, None)

    def still_mine(self, key: str) -> bool:
        """Whether we hold `key`, and nobody took it over while we slept. Worth a look before the work is committed."""
        with self._locked():
            generation = self._held.get(key)
            if generation is None or not self._presence.beat() or self._claim(key, generation + 1).exists():
                return False
            return read_if_there(self._claim(key, generation)) == self._presence.name.encode()

    def others(self) -> list[Builder]:
        """Who else is at work and alive."""
        with self._locked():
            if self._presence.appear():
                self._held.clear()
            return [other for other in self._presence.others() if other.purpose != LEAVING]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the store to ourselves (purpose gc or repair): who comes later is turned away.

        Enter it anew for each step that must not meet anybody: we may have slept, and have been taken for dead, in between.

        Raises:
            StoreError: somebody else is at work; names them.
        """
        with self._locked():
            self._presence.appear()
            self._presence.make_way(lambda other: True)
        yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock, explained(self.folder):
            yield

    def _is_held(self, claim: Path) -> bool:
        name = read_if_there(claim)
        if name == b"":  # it is being written where there are no links, unless its holder died just there
            return self._presence.age_s(claim) <= self._presence.expires_s
        if name is None or not re.fullmatch(rb"[\w-]+\.builder", name):  # marked as free, or damaged
            return False
        return self._presence.judge(name.decode()) is not None

    def _sweep(self) -> None:
        """Remove all claims; only while nobody is at work, and who comes is kept waiting."""
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # two may sweep at once
                abandoned = path.suffix == TEMPORARY and self._presence.age_s(path) > self._presence.expires_s
                if abandoned or re.fullmatch(r"\.g\d+", path.suffix):
                    path.unlink()

    def _claim(self, key: str, generation: int) -> Path:
        return self.folder / f"{key}.g{generation}"
