"""Know a face again from one window of a long video to the next.

The decision that shaped it: the windows are treated as one long row of sampled frames, by the very rules that link faces inside a
window (place, size, speed, look, at most two frames missed). Who is away for longer comes back as somebody new: places and colours
can't tell people apart. Only the faces that were there a moment ago are remembered, however long the video is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .track import MAX_GAP, Track, match_boxes

__all__ = ["Follower"]


@dataclass
class _Tail:
    """The last two frames of a face, by their positions in the whole video; its number, once it has one."""

    track: Track
    times_s: dict[int, float]
    number: int | None = None


@dataclass
class Follower:
    """Numbers the faces of one video, window after window; numbers begin at 1 and are given to faces that are wanted alone."""

    _tails: list[_Tail] = field(default_factory=list)
    _offset: int = 0  # position of the window's first frame in the row of all sampled frames
    _numbers: int = 0

    def skip(self, frames: int) -> None:
        """Pass over a window of `frames` sampled frames in which no face was found."""
        self._offset += frames

    def number(self, tracks: Sequence[Track], timestamps_s: Sequence[float], *, wanted: Sequence[bool]) -> list[int | None]:
        """The number of each track of the next window, None for those that are not `wanted` and have none yet.

        timestamps_s: of the window's frames, in seconds of the whole video.
        """
        starts: dict[int, list[int]] = {}
        for k, track in enumerate(tracks):
            starts.setdefault(track.positions[0], []).append(k)
        before: dict[int, _Tail] = {}  # by track of this window
        for start in sorted(starts):
            if start > MAX_GAP:
                break
            self._match(tracks, starts[start], start, timestamps_s, before)
        tails = [self._tail(track, timestamps_s) for track in tracks]
        for k, tail in enumerate(tails):
            tail.number = before[k].number if k in before else None
            if tail.number is None and wanted[k]:
                self._numbers += 1
                tail.number = self._numbers
        ended = [tail for tail in self._tails if not any(tail is other for other in before.values())]
        self._offset += len(timestamps_s)
        self._tails = [t for t in [*ended, *tails] if self._offset - t.track.positions[-1] <= MAX_GAP + 1]
        return [tail.number for tail in tails]

    def _match(
        self,
        tracks: Sequence[Track],
        candidates: Sequence[int],
        start: int,
        timestamps_s: Sequence[float],
        before: dict[int, _Tail],
    ) -> None:
        """Find the faces that tracks beginning at frame `start` of this window go on from."""
        position = self._offset + start
        alive = [
            tail
            for tail in self._tails
            if position - tail.track.positions[-1] <= MAX_GAP + 1 and not any(tail is other for other in before.values())
        ]
        times_s = {position: timestamps_s[start]}
        for tail in alive:
            times_s |= tail.times_s
        boxes = np.stack([tracks[k].boxes[0] for k in candidates])
        looks = [tracks[k].first_look for k in candidates]
        known = all(look is not None for look in (*looks, *(tail.track.look for tail in alive)))
        links = match_boxes([t.track for t in alive], boxes, np.stack(looks) if known else None, position, times_s)
        before.update({candidates[box]: alive[tail] for box, tail in links.items()})

    def _tail(self, track: Track, timestamps_s: Sequence[float]) -> _Tail:
        positions = [self._offset + p for p in track.positions[-2:]]
        times_s = {self._offset + p: timestamps_s[p] for p in track.positions[-2:]}
        return _Tail(Track(positions, track.boxes[-2:], look=track.look), times_s)
