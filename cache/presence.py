"""Who is at work on a store: one small file a process, touched while it lives.

The age of such a file is measured against one that the asking process has just touched on the same file server, so no two clocks are ever
compared. On the same machine the death of a process is seen at once (`cache.process`). A process that slept for so long that others took
it for dead finds its file gone, and appears anew under another name: what it held under the old one is lost.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from d2st.cache.errors import StoreError
from d2st.cache.files import NO_LINKS
from d2st.cache.process import is_gone, this_process

__all__ = ["LEAVING", "Builder", "Presence", "read_if_there"]

BEATS = 6  # in the time after which a silent process counts as dead
LEAVING = "leave"  # the purpose of one that sweeps the folder and goes; who comes meanwhile waits for it
SUFFIX, TEMPORARY = ".builder", ".new"


@dataclass(frozen=True)
class Builder:
    """Somebody at work on the store.

    Attributes:
        purpose: build, gc or repair.
        seconds_since_beat: age of the last sign of life, by the file server's clock.
    """

    host: str
    pid: int
    purpose: str
    seconds_since_beat: float


class Presence:
    """This process among those at work. Not safe to use from several threads at once, but for `beat`.

    Args:
        folder: where the presence files lie.
        purpose: "build" may go together with other builds; anything else keeps builds from starting.
        expires_s: seconds without a sign of life after which a process counts as dead.
    """

    def __init__(self, folder: Path, *, purpose: str, expires_s: float) -> None:
        self.folder, self.purpose, self.expires_s = folder, purpose, expires_s
        self.name = ""  # of our file
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def appear(self) -> bool:
        """Show a sign of life; True if the others did not know us (any more), so that we appeared anew.

        Raises:
            StoreError: our purpose is to build, and a process of another purpose is at work.
        """
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._beat_on, name="d2st-presence", daemon=True)
            self._thread.start()
        if self.name and self.beat():
            return False
        self.name = f"{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
        # known first, looking around after: of two who come at once, at least one sees the other
        self.announce(self.purpose)
        if self.purpose == "build":
            try:
                self.make_way(lambda other: other.purpose != "build")
            except BaseException:
                self.vanish()
                raise
        return True

    def announce(self, purpose: str) -> None:
        """Write our file."""
        self.write(self.name, json.dumps({**this_process(), "purpose": purpose}).encode())

    def vanish(self) -> None:
        """Stop beating and remove our file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):  # nothing depends on it: the others see us expire
            (self.folder / self.name).unlink()

    def beat(self) -> bool:
        """Touch our file; False when it is gone."""
        try:
            os.utime(self.folder / self.name)
        except FileNotFoundError:
            return False
        return True

    def others(self) -> list[Builder]:
        """The living, those who are leaving among them; files of the dead are removed."""
        living = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name == self.name:
                continue
            other = self.judge(path.name)
            if other is not None:
                living.append(other)
            else:
                path.unlink(missing_ok=True)
        return living

    def make_way(self, bars_us: Callable[[Builder], bool]) -> None:
        """Raise StoreError if one of the others bars us; who is just leaving is waited for."""
        while True:
            present = self.others()
            for other in present:
                if other.purpose != LEAVING and bars_us(other):
                    raise StoreError(
                        f"{self.folder.parent} is in use: process {other.pid} on {other.host} is at work on it ({other.purpose}, "
                        f"last sign of life {other.seconds_since_beat:.0f} s ago)",
                        fix="Wait for it, or stop it, and run the same command again",
                    )
            if not any(other.purpose == LEAVING for other in present):
                return
            time.sleep(0.02)

    def judge(self, name: str) -> Builder | None:
        """Whose presence file `name` is; None when it is gone or its process dead."""
        path = self.folder / name
        data = read_if_there(path)  # opening a file also brings a network file system's idea of its age up to date
        try:
            age_s = self.age_s(path)
        except FileNotFoundError:
            return None
        try:
            document = json.loads(data or b"")
            other = Builder(str(document["host"]), int(document["pid"]), str(document["purpose"]), age_s)
        except (ValueError, KeyError, TypeError):  # damaged, or cut off by a power cut: its age alone counts
            document, other = {}, Builder("an unknown host", 0, "build", age_s)
        return None if age_s > self.expires_s or is_gone(document) else other

    def age_s(self, path: Path) -> float:
        """Seconds since `path` was touched, by the file server's clock. Raises FileNotFoundError when it is gone."""
        touched_s = os.stat(path).st_mtime
        if not self.beat():  # we were taken for dead ourselves, and shall find out
            return 0.0
        with suppress(FileNotFoundError):
            return max(0.0, os.stat(self.folder / self.name).st_mtime - touched_s)
        return 0.0

    def write(self, name: str, data: bytes) -> None:
        """Put `data` into the file `name` of the folder, all or nothing."""
        temporary = self.folder / f"{self.name}{TEMPORARY}"
        temporary.write_bytes(data)
        os.replace(temporary, self.folder / name)

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` into the file `name` of the folder unless it exists; returns whether it was created.

        By a link, so that who dies on the way leaves no file without its content, which others would wait for.
        """
        temporary = self.folder / f"{self.name}{TEMPORARY}"
        temporary.write_bytes(data)
        try:
            os.link(temporary, self.folder / name)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                with open(self.folder / name, "xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _beat_on(self) -> None:
        while not self._stop.wait(self.expires_s / BEATS):
            with suppress(OSError):  # a file server that is away for a while; whoever calls `beat` next says so
                self.beat()


def read_if_there(path: Path) -> bytes | None:
    """The content of a file, None when it is gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
