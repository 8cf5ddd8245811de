"""One decoding child as its parent sees it: start it, hand it a file, wait no longer than the deadline, know how it ended.

A timer kills a child that is late, which ends the blocking read here; so no call can wait for ever, on any platform.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any, BinaryIO

from d2st.cache.errors import MediaError, RunError
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.types import Frames, Job, MediaEnd, MediaWindow
from d2st.pipeline.media.wire import Closed, receive, receive_end, receive_error, receive_frames, receive_window, send

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
        self.busy_s = 0.0
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
        begin = perf_counter()
        result: Frames | MediaError | None = None
        with _Deadline(self._process, base_timeout_s) as deadline, contextlib.suppress(Closed, OSError):
            self._send(job, parts=False)  # OSError: the child went while the job was being sent
            message = self._reply(deadline)
            result = receive_error(message) if "reason" in message else receive_frames(self._output, message)
        self.busy_s += perf_counter() - begin
        if result is not None and not deadline.passed:
            return result
        failure = self._fail(job, deadline)
        return result if result is not None else failure

    def read_parts(self, job: Job, *, base_timeout_s: float, put: Callable[[MediaWindow], None]) -> MediaEnd:
        """Have one file read in windows, each of which is given to `put` before the next is asked of the pipe.

        Each has `base_timeout_s` plus ten times its length; the time that `put` takes does not count. What `put` raises passes through,
        and the child is good for nothing more then, as after a crash or a timeout.
        """
        self.files_read += 1
        reached = MediaEnd(None, None, 0, windowed=False)
        end: MediaEnd | None = None
        self._usable = False  # until its last word: whatever happens meanwhile leaves it in the middle of a file
        with _Deadline(self._process, base_timeout_s) as deadline, contextlib.suppress(Closed, OSError):
            self._send(job, parts=True)
            while True:
                message = self._reply(deadline)
                self.busy_s += message["busy_s"]
                if "end" in message:
                    end = receive_end(message)
                    break
                window = receive_window(self._output, message)
                deadline.stop()
                if deadline.passed:
                    break
                count = window.frames.info.frame_count if isinstance(window.frames, Frames) else 0
                reached = MediaEnd(None, window.end_s or None, reached.frames + count, windowed=True)
                put(window)
                del window
                deadline.restart(base_timeout_s + TIMEOUT_PER_SECOND * (job.window_s or 0.0))
        if end is not None and not deadline.passed:
            self._usable = True
            return end
        return end or replace(reached, error=self._fail(job, deadline))

    def _send(self, job: Job, *, parts: bool) -> None:
        send(self._input, {**asdict(job), "parts": parts})

    def _reply(self, deadline: "_Deadline") -> dict[str, Any]:
        """The child's next message that is not about the deadline."""
        while message := receive(self._output):
            if message.keys() != {"duration_s"}:
                return message
            deadline.extend(TIMEOUT_PER_SECOND * message["duration_s"])
        raise Closed

    def _fail(self, job: Job, deadline: "_Deadline") -> MediaError:
        """Bury the child, and say what it died of."""
        self._usable = False
        self._process.kill()
        code = self._process.wait()
        if deadline.passed:
            return media_error("timeout", job.path, f"{deadline.timeout_s:.0f} s")
        return media_error("decoder_crashed", job.path, f"exit code {code}")

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
        self.stop()  # so that it can't kill a child that goes on with its next file

    def extend(self, more_s: float) -> None:
        """Add `more_s` seconds, from now on, up to MAX_TIMEOUT_S in all."""
        self.restart(self.timeout_s + max(0.0, more_s))

    def stop(self) -> None:
        """Let no more time run, until `restart`."""
        self._timer.cancel()
        self._timer.join()

    def restart(self, timeout_s: float) -> None:
        """Give `timeout_s` from now on, up to MAX_TIMEOUT_S."""
        self.stop()
        if not self.passed:
            self.timeout_s = min(MAX_TIMEOUT_S, timeout_s)
            self._timer = self._start(self.timeout_s)

    def _start(self, timeout_s: float) -> threading.Timer:
        timer = threading.Timer(timeout_s, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        self.passed = True
        self._process.kill()
