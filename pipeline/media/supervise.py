"""One decoding child as its parent sees it: start it, hand it a file, wait no longer than the deadline, know how it ended.

A timer kills a child that is late, which ends the blocking read here; so no call can wait for ever, on any platform.
"""

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import BinaryIO

from d2st.cache.errors import MediaError, RunError
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.types import Frames, Job
from d2st.pipeline.media.wire import Closed, receive, receive_frames, send

__all__ = ["Child"]

START_TIMEOUT_S = 120.0  # importing numpy, av and decord from a cold network disk
MAX_TIMEOUT_S = 3600.0
TIMEOUT_PER_SECOND = 10.0
# SIGINT: Ctrl-C reaches the whole process group, and the parent ends its children itself.
# -c rather than -m: it imports nothing before sys.path is the parent's, so a stray av.py in the working directory does no harm
BOOT = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from d2st.pipeline.media.child import serve; serve(sys.argv[2])"
)


class Child:
    """A running child process. Used by one thread at a time; only `kill` may be called from others."""

    def __init__(self, reader: str) -> None:
        """Start a child that will call `reader` ("module:function"). Raises RunError if the system refuses."""
        command = [sys.executable, "-c", BOOT, json.dumps([str(entry) for entry in sys.path]), reader]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except OSError as error:
            raise RunError(f"a decoding process could not start ({error})", fix="Use fewer workers.") from error
        self.files_read = 0
        self._usable = True

    @property
    def alive(self) -> bool:
        """Whether the next file can go to this child."""
        return self._usable and self._process.poll() is None

    def wait_ready(self) -> None:
        """Wait until the child has imported all it needs. Raises RunError if it ends before."""
        with _Deadline(self._process, START_TIMEOUT_S):
            try:
                receive(self._output)
            except Closed:
                self.end()
                raise RunError(
                    f"a decoding process could not start (exit code {self._process.returncode})",
                    fix="Its own message stands above; run `d2st doctor`.",
                ) from None

    @property
    def _input(self) -> BinaryIO:
        return self._process.stdin

    @property
    def _output(self) -> BinaryIO:
        return self._process.stdout

    def read(self, job: Job, *, base_timeout_s: float) -> Frames | MediaError:
        """Have one file decoded. After a crash or a timeout `alive` is False and the child is good for nothing more."""
        self.files_read += 1
        result: Frames | MediaError | None = None
        with _Deadline(self._process, base_timeout_s) as deadline, contextlib.suppress(Closed, OSError):
            result = self._exchange(job, deadline)  # OSError: the child went while the job was being sent
        if result is not None and not deadline.passed:
            return result
        self._usable = False
        self._process.kill()
        code = self._process.wait()
        if result is not None:
            return result
        if deadline.passed:
            return media_error("timeout", job.path, f"{deadline.timeout_s:.0f} s")
        return media_error("decoder_crashed", job.path, f"exit code {code}")

    def _exchange(self, job: Job, deadline: "_Deadline") -> Frames | MediaError:
        send(self._input, asdict(job))
        while "duration_s" in (message := receive(self._output)):
            deadline.extend(TIMEOUT_PER_SECOND * message["duration_s"])
        if "reason" in message:
            return MediaError(message["reason"], message["message"], fix=message["fix"])
        return receive_frames(self._output, message)

    def kill(self) -> None:
        """End the process at once; a `read` that waits for it returns."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process if it still runs, and give back its pipes."""
        self._usable = False
        self._process.kill()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):  # unsent bytes of a pipe whose reader is gone
                pipe.close()
        self._process.wait()


class _Deadline:
    """Kills a process unless the `with` block is left in time. `passed` says whether it did."""

    def __init__(self, process: subprocess.Popen, timeout_s: float) -> None:
        self._process = process
        self.timeout_s = timeout_s
        self.passed = False
        self._timer = self._start(timeout_s)

    def __enter__(self) -> "_Deadline":
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # so that it can't kill a child that goes on with its next file

    def extend(self, more_s: float) -> None:
        """Add `more_s` seconds, from now on, up to MAX_TIMEOUT_S in all."""
        self._timer.cancel()
        self._timer.join()
        if not self.passed:
            self.timeout_s = min(MAX_TIMEOUT_S, self.timeout_s + max(0.0, more_s))
            self._timer = self._start(self.timeout_s)

    def _start(self, timeout_s: float) -> threading.Timer:
        timer = threading.Timer(timeout_s, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        self.passed = True
        self._process.kill()
