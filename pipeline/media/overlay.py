"""What is drawn on the frames of a scored video: boxes with their labels, and a timeline in a strip below the picture.

The strip extends the picture and covers none of it. What a colour says, a word or a height says too: vermilion and sky blue (Okabe and
Ito, "Color Universal Design", 2008) differ for every kind of colour vision, a fake's box is thicker, and gaps without a score are hatched.
Every size follows from the picture's short side, so that labels can be read at 256 px and at 4K alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Strip", "TrackDrawing", "draw_box", "font_px", "verdict"]

FAKE, REAL, UNKNOWN = (213, 94, 0), (86, 180, 233), (170, 170, 170)
BACK, LANE, INK, FAINT = (20, 20, 20), (52, 52, 52), (255, 255, 255), (110, 110, 110)
MIN_FONT_PX = 10
MAX_LANES = 4
Windows = Sequence[tuple[float, float, float | None]]


@dataclass(frozen=True)
class TrackDrawing:
    """One followed face, as it is to be drawn.

    Attributes:
        number: the face's number, shown where there are several.
        timestamps_s: when it was looked at, in seconds from the video's first frame, ascending.
        boxes: x0, y0, x1, y1 at those times, in px of the upright source picture.
        windows: (start_s, end_s, P(fake) or None for a window that could not be scored).
        probability: P(fake) of the whole video, for times outside of every window.
    """

    number: int
    timestamps_s: Sequence[float]
    boxes: Sequence[tuple[float, float, float, float]]
    windows: Windows
    probability: float

    def at(self, time_s: float) -> float | None:
        """P(fake) of the window that `time_s` lies in; of the video if it lies in none."""
        for start_s, end_s, probability in self.windows:
            if start_s <= time_s < end_s:
                return probability
        return self.probability


def verdict(probability: float | None, threshold: float) -> tuple[str, tuple[int, int, int]]:
    """The words for P(fake) and their colour (RGB); fake is what lies above the threshold."""
    if probability is None:
        return "no score", UNKNOWN
    fake = probability > threshold
    return f"{'FAKE' if fake else 'REAL'} {probability:.2f}", FAKE if fake else REAL


def font_px(height: int, width: int) -> int:
    """Size of the letters for a picture of this size."""
    return max(MIN_FONT_PX, round(min(height, width) / 22))


def draw_box(picture: np.ndarray, box: Sequence[float], words: str, colour: tuple[int, int, int], *, thick: bool) -> None:
    """Draw a box (px) and its label into (H, W, 3) uint8 RGB, in place. The label keeps within the picture."""
    h, w = picture.shape[:2]
    size = font_px(h, w)
    line = max(1, size // (5 if thick else 8))
    x0, y0, x1, y1 = (int(np.clip(round(v), -w - h, 2 * (w + h))) for v in box)
    cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 0, 0), line + 2 * max(1, line // 2), cv2.LINE_AA)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line, cv2.LINE_AA)
    mask = _letters(words, size)
    label = np.pad(mask, size // 4)
    top = y0 - line - label.shape[0] if y0 - line >= label.shape[0] else y1 + line
    top, left = (int(np.clip(v, 0, max(0, n - m))) for v, n, m in zip((top, x0 - line), (h, w), label.shape, strict=True))
    place = picture[top : top + label.shape[0], left : left + label.shape[1]]
    place[:] = colour
    _blend(place, label, (0, 0, 0))


class Strip:
    """The timeline below the picture: a line of words, and a lane for each of four faces; where there are more, the fourth is all the rest.

    A lane's bars are as high as P(fake) of their windows, the highest where several overlap; a dashed line marks the threshold, a white one
    the time of the frame.

    Args:
        width: of the picture in px.
        height: of the picture in px; the strip is added to it.
        faces: in the order of their lanes, the most suspicious first.
        threshold: as a probability.
        duration_s: the time at the lanes' right end.
    """

    def __init__(self, width: int, height: int, faces: Sequence[TrackDrawing], *, threshold: float, duration_s: float) -> None:
        self._size = font_px(height, width)
        self._duration_s = max(duration_s, 1e-6)
        several, lanes = len(faces) > 1, _lanes(faces)
        head, lane, gap = round(1.6 * self._size), round((1.4 if several else 2.2) * self._size), max(2, self._size // 5)
        tall = head + len(lanes) * (lane + gap)
        self.height = tall + (height + tall) % 2
        self._top = head
        self._left = gap + (max(_letters(name, self._size).shape[1] for name, _ in lanes) + gap if several else 0)
        self._right = max(self._left + 1, width - gap)
        self._still = np.full((self.height, width, 3), BACK, np.uint8)
        self._words = "no face" if not faces else verdict(max(face.probability for face in faces), threshold)[0]
        self._words += f", the highest of {len(faces)}" if several else ""
        for row, (name, windows) in enumerate(lanes):
            y = head + row * (lane + gap)
            self._draw_lane(self._still[y : y + lane, self._left : self._right], windows, threshold)
            if several:
                _write(self._still, name, gap, y + (lane - self._size) // 2, self._size, INK)

    def _draw_lane(self, place: np.ndarray, windows: Windows, threshold: float) -> None:
        """Hatch the lane, then draw its bars over the hatching. `place` (h, w, 3) is drawn in place."""
        h, w = place.shape[:2]
        y, x = np.mgrid[:h, :w]
        pitch, line = max(4, self._size // 2), max(1, self._size // 16)
        place[:] = np.where(((x + y) % (2 * pitch) < pitch // 2)[..., None], np.uint8(FAINT), np.uint8(LANE))
        for start_s, end_s, probability in sorted((w for w in windows if w[2] is not None), key=lambda window: window[2]):
            low, high = (round(float(np.clip(t / self._duration_s, 0, 1)) * w) for t in (start_s, end_s))
            place[:, low : max(high, low + 1)] = LANE
            place[h - max(1, round(probability * h)) :, low : max(high, low + 1)] = verdict(probability, threshold)[1]
        level = min(h - line, max(0, round((1 - threshold) * h - line / 2)))
        place[level : level + line, np.arange(w) // pitch % 2 == 0] = INK

    def at(self, time_s: float) -> np.ndarray:
        """The strip of the frame at `time_s`: (height, width, 3) uint8 RGB."""
        strip = self._still.copy()
        share = float(np.clip(time_s / self._duration_s, 0, 1))
        x = self._left + round(share * (self._right - 1 - self._left))
        half = max(1, self._size // 10)
        strip[self._top - half :, max(0, x - 2 * half) : x + 2 * half + 1] //= 3
        strip[self._top - half :, max(0, x - half + 1) : x + half] = INK
        y = (self._top - self._size) // 2
        clock = f"{int(time_s // 60)}:{time_s % 60:04.1f}"
        room = strip.shape[1] - _letters(clock, self._size).shape[1] - self._size // 2
        _write(strip[:, : max(0, room)], self._words, self._size // 4, y, self._size, INK)
        _write(strip, clock, max(0, room + self._size // 4), y, self._size, INK)
        return strip


def _lanes(faces: Sequence[TrackDrawing]) -> list[tuple[str, Windows]]:
    """What each lane is called, and its windows."""
    own = faces if len(faces) <= MAX_LANES else faces[: MAX_LANES - 1]
    lanes = [(f"#{face.number}", face.windows) for face in own]
    rest = faces[len(own) :]
    if rest:
        lanes.append((f"+{len(rest)}", [window for face in rest for window in face.windows]))
    return lanes or [("", ())]


def _write(picture: np.ndarray, words: str, x: int, y: int, size: int, colour: tuple[int, int, int]) -> None:
    """Write words with their top left corner at x, y; what does not fit is cut off."""
    mask = _letters(words, size)
    place = picture[max(0, y) : max(0, y) + mask.shape[0], x : x + mask.shape[1]]
    _blend(place, mask, colour)


def _blend(place: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Paint `colour` through the mask (h, w) uint8 into `place` (h' <= h, w' <= w, 3), in place."""
    alpha = mask[: place.shape[0], : place.shape[1], None].astype(np.float32) / 255
    place[:] = np.rint(place * (1 - alpha) + np.float32(colour) * alpha)


@lru_cache(maxsize=512)
def _letters(words: str, size: int) -> np.ndarray:
    """The words as a mask (h, w) uint8, letters `size` px high; a few digits make most labels, so they are kept."""
    font = ImageFont.load_default(size)
    left, _, right, _ = font.getbbox(words)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(1, int(right - left) + 1), ascent + descent))
    ImageDraw.Draw(image).text((-left, 0), words, fill=255, font=font)
    return np.asarray(image)
