"""Take the sampled frames of one window after another from a stream of decoded frames, without knowing how many will come.

A window of n frames at a steady rate asks for frame floor((k + 0.5) n / T), which is the picture shown at (k + 0.5) / T of the window's
time; so the picture shown at each such moment is taken. That serves variable rates too, where each is taken at most once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from d2st.cache.errors import MediaError
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.probe import Probe, quarter_turns
from d2st.pipeline.media.pyav_reader import upright
from d2st.pipeline.media.types import ASSUMED_FPS, Frames, MediaInfo, MediaWindow

__all__ = ["Stretch"]

LATE_RATIO = 0.5  # of a window: what may come after the last one's planned end and still belong to it


class Stretch:
    """The window that is being read, and then the next one.

    Args:
        edges: where windows begin, and where the last one ends, in seconds.
        window_s: the length of further windows, which frames far beyond the last edge open.
        frames: T, taken from each window ("even": spread over it, "clip": neighbours in its middle); fewer where it holds fewer.

    `lost` is to be raised for every packet that does not decode; it is shared out among the windows up to the next frame that does.
    """

    def __init__(
        self, path: str | Path, probe: Probe, edges: Sequence[float], window_s: float, *, frames: int, sampling: str
    ) -> None:
        self.lost = 0
        self._path, self._probe = path, probe
        self._edges, self._window_s, self._frames, self._even = edges, window_s, frames, sampling == "even"
        self._period_s = 1 / (probe.fps or ASSUMED_FPS)
        # containers round their times, to a millisecond at worst; a moment lies at least 1 / 2T of a frame before the next frame
        self._edge_slack_s = min(1e-3, self._period_s / 4)
        self._slack_s = min(1e-3, self._period_s / (4 * frames))
        self._begin(0)

    def add(self, frame: av.VideoFrame, index: int, at_s: float) -> Iterator[MediaWindow]:
        """Take or pass over frame number `index`, shown from `at_s` on; yield the windows that ended before it."""
        while at_s >= self._limit_s - self._edge_slack_s:
            yield from self._finish(self._end_s)
            beyond = self._number + 2 >= len(self._edges)  # a jump of the clock there may pass over millions of windows
            self._begin(self._number + 1 + (int((at_s - self._end_s) / self._window_s) if beyond else 0))
        self._lost, self.lost = self._lost + self.lost, 0
        self._count += 1
        passed = False
        while self._moments and self._moments[0] < at_s - self._slack_s:
            self._moments.popleft()
            passed = True
        if passed:
            self._take(*(self._held or (frame, index, at_s)))  # the first one stands for moments before it too
            self._following = 0 if self._even else self._frames - 1
        if self._following and self._indices[-1:] != [index]:
            self._take(frame, index, at_s)
            self._following -= 1
        self._held = (frame, index, at_s)

    def close(self, end_s: float) -> Iterator[MediaWindow]:
        """Yield the last window, which ends at `end_s`, behind the last frame."""
        yield from self._finish(end_s)

    def _begin(self, number: int) -> None:
        last = len(self._edges) - 1
        self._number = number
        self._start_s = self._edges[number] if number < last else self._edges[last] + (number - last) * self._window_s
        self._end_s = self._edges[number + 1] if number < last else self._start_s + self._window_s
        self._limit_s = self._end_s + (LATE_RATIO * self._window_s if number == last - 1 else 0.0)
        length_s = self._end_s - self._start_s
        if self._even:
            moments = [self._start_s + (k + 0.5) * length_s / self._frames for k in range(self._frames)]
        else:
            moments = [self._start_s + (length_s - self._frames * self._period_s) / 2]
        self._moments = deque(moments)
        self._following = 0  # neighbours that are still to be taken
        self._count = 0
        self._lost = 0
        self._held: tuple[av.VideoFrame, int, float] | None = None
        self._images: list[np.ndarray] = []
        self._indices: list[int] = []
        self._times_s: list[float] = []
        self._rotation = 0
        self._failure: Exception | None = None

    def _take(self, frame: av.VideoFrame, index: int, at_s: float) -> None:
        if self._indices[-1:] == [index]:
            return
        self._rotation = -90 * quarter_turns(frame) % 360
        try:
            picture = upright(frame)
        except (ValueError, av.FFmpegError) as error:
            self._failure = error
            self._lost += 1
            return
        self._images.append(picture)
        self._indices.append(index)
        self._times_s.append(at_s)

    def _finish(self, end_s: float) -> Iterator[MediaWindow]:
        if self._held is not None and self._moments:
            self._take(*self._held)
        since_s = self._start_s if self._held is None else self._held[2]
        here = min(self.lost, max(0, round((end_s - since_s) / self._period_s)))
        self.lost, self._lost = self.lost - here, self._lost + here
        if self._images:
            probe, first = self._probe, self._images[0]
            info = MediaInfo(
                decoder=f"pyav {av.__version__}",
                frame_count=self._count,
                fps=probe.fps,
                width=first.shape[1],
                height=first.shape[0],
                rotation=self._rotation,
                codec=probe.codec,
                pix_fmt=probe.pix_fmt,
                frames_lost=self._lost,
            )
            found = Frames(tuple(self._images), tuple(self._indices), tuple(self._times_s), info)
            self._images = []  # what was handed on must not stay here
            yield MediaWindow(found, self._start_s, end_s)
            del found
        elif self._lost:
            where = f"no frame from {self._start_s:.1f} to {end_s:.1f} s"
            error: MediaError = media_error("decode_failed", self._path, f"{where}: {self._failure or 'damaged'}")
            yield MediaWindow(error, self._start_s, end_s)
