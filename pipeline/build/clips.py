"""What comes of media files on their way to a detector: clips of face crops with their token maps, and how each file ended.

One decision: everything is an event in file order, and no event waits for the end of its file, so that a two-hour video needs no more
memory than a short one and its first window is known while the rest is still being read.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from d2st.cache.errors import D2stError
from d2st.pipeline.build.flow import Clock

if TYPE_CHECKING:
    from d2st.pipeline.clip import Tokens

__all__ = ["ClipClocks", "ClipEvent", "EncodedClip", "FileEnd"]


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """One face over one clip: a whole short file, or a window of a long one.

    Attributes:
        crops: (T',S,S,3) uint8 RGB, T' <= T.
        tokens: the token maps of the T' frames as the cache would hold them; None from a front end without an encoder.
        info: how it was decoded and cropped (JSON values, as a build keeps them): indices, timestamps_s, decoded, media, face.
        boxes: (T',4) float32: x0, y0, x1, y1 of the face in px of the upright source frame.
        matrices: (T',2,3) float64: px of the source to px of the crop, crop = M @ (x, y, 1).
        timestamps_s: (T') seconds from the first frame of the file.
        track: number of the face within its file, from 1 on; the same face has the same number in later windows. Where only the main
            face is asked for it is always 1.
    """

    crops: np.ndarray
    tokens: "Tokens | None"
    info: dict[str, Any]
    boxes: np.ndarray
    matrices: np.ndarray
    timestamps_s: tuple[float, ...]
    track: int


@dataclass(frozen=True, eq=False)
class ClipEvent:
    """A clip of file number `file` (from 0 on), or why there is none: no face, a damaged stretch. `start_s` to `end_s` is the window, in
    seconds from the file's first frame; both are 0 for an image. Several faces of a window are several events with the same times."""

    file: int
    clip: EncodedClip | D2stError
    start_s: float
    end_s: float


@dataclass(frozen=True)
class FileEnd:
    """The last event of a file.

    Attributes:
        file: its number, from 0 on.
        error: what ended the reading before the file's end (it can't be read at all, is cut off, the decoder crashed, the time was up), or
            None. A missing face is no such error: it stands in its clip's event.
        duration_s: seconds of the file that were read; None for an image and where nothing was read.
        frames: frames that decode, as far as it was read.
        windowed: whether it was longer than a clip and so came in windows.
    """

    file: int
    error: D2stError | None
    duration_s: float | None
    frames: int
    windowed: bool


@dataclass(frozen=True)
class ClipClocks:
    """How long each stage worked, all its threads and processes together (`busy_s`): reading files in the children, finding and cutting
    faces, CLIP. They run at the same time, so the sum may exceed what the clock on the wall shows."""

    decode: Clock = field(default_factory=Clock)
    faces: Clock = field(default_factory=Clock)
    clip: Clock = field(default_factory=Clock)
