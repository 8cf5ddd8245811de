"""What a detector says of a file: plain values, each in its unit, with the doubts in words.

The one decision: `logit` and `score` are raw, as `d2st eval` measures them and equal to the cache's where a file is one clip; `probability`
is the calibrated one, and `threshold` lies on its scale. So nothing that was measured before is changed by calibration.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["Doubt", "Face", "Prediction", "Window"]


@dataclass(frozen=True)
class Doubt:
    """Why a result is to be taken with care.

    Attributes:
        code: too_dark, too_small, few_frames, partly_outside, face_changes, several_faces, frames_lost, near_threshold or
            no_operating_point.
        words: the same for people, with the number that it rests on.
    """

    code: str
    words: str


@dataclass(frozen=True)
class Window:
    """A stretch of a video that was scored as one clip.

    Attributes:
        start_s, end_s: where it lies in the file, seconds.
        logit: raw log-odds; None where there was nothing to score, and `reason` then is the code.
        probability: calibrated P(fake), 0..1; None with `logit`.
        frames: how many the score rests on.
    """

    start_s: float
    end_s: float
    logit: float | None
    probability: float | None
    frames: int
    reason: str | None = None
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class Face:
    """One face followed through a file.

    Attributes:
        number: from 1 on, in order of appearance; the same for the same face in each window.
        logit: mean of its windows' logits; `score` is its sigmoid, `probability` the calibrated one.
        windows: those in which it was seen.
        frame_scores: raw P(fake) of each frame, at `timestamps_s` seconds.
        boxes: (left, top, right, bottom) in source pixels at each of `timestamps_s`.
    """

    number: int
    logit: float
    score: float
    probability: float
    windows: tuple[Window, ...]
    frame_scores: tuple[float, ...]
    timestamps_s: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one file.

    Attributes:
        path: as it was given.
        kind: image, video or frames (a folder of images).
        score: sigmoid(logit), raw, 0..1; a windowed file's `logit` is the mean of its windows', with all faces that of the most suspicious.
        probability: calibrated P(fake), sigmoid(logit / temperature).
        threshold: a probability; a file above it is `fake`.
        frame_scores: raw P(fake) of each scored frame, at `timestamps_s` seconds (0 for an image), of the face that the score is of.
        windows: one for a file that is one clip; of the face that the score is of.
        faces: highest logit first; one unless all faces were asked for.
        duration_s: of a video, where it is known.
        notes: what holds for the file as a whole, in words.
        info: how the first clip was decoded and cropped (JSON values).
    """

    path: str
    kind: str
    score: float
    logit: float
    probability: float
    threshold: float
    fake: bool
    frame_scores: tuple[float, ...]
    timestamps_s: tuple[float, ...]
    windows: tuple[Window, ...]
    faces: tuple[Face, ...]
    doubts: tuple[Doubt, ...]
    duration_s: float | None
    notes: tuple[str, ...]
    info: dict[str, Any]
