"""What goes into decoding and what comes out; plain records that every reader and the decode pool share."""

from dataclasses import dataclass

import numpy as np

from d2st.cache.errors import ConfigError, MediaError, UnknownNameError
from d2st.pipeline.media.sampling import sample_indices

__all__ = ["ASSUMED_FPS", "KINDS", "MAX_FRAMES", "MAX_PIXELS", "Frames", "Job", "MediaEnd", "MediaInfo", "MediaWindow"]

KINDS = ("image", "video", "frames")
# what no honest file of faces exceeds; one header that claimed 4.26e9 frames ended decord's whole process
MAX_FRAMES = 2_000_000
MAX_PIXELS = 16384 * 16384
ASSUMED_FPS = 25.0  # of folders, and of streams that know neither times nor a rate


@dataclass(frozen=True)
class MediaInfo:
    """What was read, and with what: recorded beside the crops so that a result can be traced to its decoder.

    `frame_count` is the number of frames that really decode (not what the header claims), `width` and `height` are those of
    the first frame read, after `rotation` (degrees clockwise: 0, 90, 180, 270) has been applied. `frames_lost` counts
    frames that the file should hold and no decoder gave.
    """

    decoder: str
    frame_count: int
    fps: float | None
    width: int
    height: int
    rotation: int
    codec: str
    pix_fmt: str
    frames_lost: int


@dataclass(frozen=True)
class Frames:
    """The sampled frames of one file: `images` (H, W, 3) uint8 RGB each (sizes may differ inside one stream), their
    `indices` among the decodable frames, and their `timestamps_s`: the container's, from the first frame on (index / fps without)."""

    images: tuple[np.ndarray, ...]
    indices: tuple[int, ...]
    timestamps_s: tuple[float, ...]
    info: MediaInfo


@dataclass(frozen=True)
class MediaWindow:
    """A stretch of a file, `start_s` to `end_s` seconds from its first frame, and the frames sampled in it, or why there are none.
    A file that is no longer than a clip is one window. `indices` and `timestamps_s` count from the file's first frame; `info` is of
    the window alone (its frame_count, its frames_lost)."""

    frames: Frames | MediaError
    start_s: float
    end_s: float


@dataclass(frozen=True)
class MediaEnd:
    """Behind the last window of a file: what ended it too early, if anything did, and how many seconds and frames of it could be read.
    `duration_s` is None for an image; `windowed` says that it was longer than a clip."""

    error: MediaError | None
    duration_s: float | None
    frames: int
    windowed: bool


@dataclass(frozen=True)
class Job:
    """One file to decode: `key` is the caller's own name for it, the rest are the arguments of `read_media`, or of `read_windows`, which
    alone heeds `window_s`.

    Raises UnknownNameError or ConfigError for a kind, sampling, number of frames or window that makes no sense.
    """

    key: str
    path: str
    kind: str
    frames: int
    sampling: str
    files: tuple[str, ...] | None = None  # of a folder of frames: these alone
    window_s: float | None = None

    def __post_init__(self) -> None:
        if self.window_s is not None and not 0 < self.window_s < float("inf"):
            raise ConfigError(f"windows of {self.window_s} s are not possible", fix="Use more than 0 seconds")
        if self.kind not in KINDS:
            raise UnknownNameError("kind of media", self.kind, list(KINDS))
        sample_indices(0, self.frames, self.sampling)  # raises for what no file could be read with
