"""What `d2st predict --timeline` leaves of a video: a table, a picture, and on request the video itself with boxes and scores."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2st.cache.errors import UsageError

if TYPE_CHECKING:
    from d2st.detection import Detector
    from d2st.pipeline.media.annotate import Annotated
    from d2st.prediction import Prediction

__all__ = ["COLUMNS", "Namer", "write_timeline"]

COLUMNS = (
    "row",
    "face",
    "start_s",
    "end_s",
    "probability",
    "score",
    "logit",
    "frames",
    "reason",
    "doubts",
    "x0",
    "y0",
    "x1",
    "y1",
)


class Namer:
    """Gives each video of a run a name in `folder` of its own: talk, then talk-2 for a talk of another folder.

    Raises:
        UsageError: what is to be written would replace one of the `sources`.
    """

    def __init__(self, folder: Path, sources: Iterable[Path], *, endings: Sequence[str]) -> None:
        self.folder = folder
        self._used: set[str] = set()
        self._endings = endings
        self._sources = {path.resolve() for path in sources}

    def name(self, path: Path) -> Path:
        """Where to write for the video `path`, without an ending."""
        stem, number = path.stem or "video", 1
        while (name := stem if number == 1 else f"{stem}-{number}").casefold() in self._used:
            number += 1
        self._used.add(name.casefold())
        for ending in self._endings:
            target = self.folder / f"{name}{ending}"
            if target.resolve() in self._sources:
                raise UsageError(f"{target} is one of the videos to score", fix="Name another folder with --timeline")
        return self.folder / name


def write_timeline(found: "Prediction", target: Path, *, detector: "Detector", annotate: bool) -> "Annotated | None":
    """Write TARGET.csv, TARGET.png and with `annotate` TARGET.mp4; returns what is known of the latter.

    The table has a row for each window of each face, then one for each frame, then one for each stretch that could not be scored. A frame's
    `score` is raw, and `probability` calibrated, in all of them; boxes are in px of the source.

    Raises:
        MediaError, ConfigError: the video can't be written anew.
    """
    from d2st.cache.files import write_atomic

    target.parent.mkdir(parents=True, exist_ok=True)
    frames = {face.number: detector.calibrated(found.kind, face.frame_scores) for face in found.faces}
    table, picture, video = (target.with_name(target.name + ending) for ending in (".csv", ".png", ".mp4"))
    write_atomic(table, _csv(found, frames).encode())
    write_atomic(picture, _png(found, frames))
    if not annotate:
        return None
    from d2st.pipeline.media.annotate import TrackDrawing, annotate_video

    gaps = [(gap.start_s, gap.end_s, None) for gap in _gaps(found)]
    tracks = [
        TrackDrawing(
            number=face.number,
            timestamps_s=face.timestamps_s,
            boxes=face.boxes,
            windows=sorted([*((w.start_s, w.end_s, w.probability) for w in face.windows), *gaps], key=lambda window: window[0]),
            probability=face.probability,
        )
        for face in found.faces
    ]
    return annotate_video(found.path, video, tracks, threshold=found.threshold, duration_s=found.duration_s)


def _gaps(found: "Prediction") -> list:
    return [window for window in found.windows if window.probability is None]


def _csv(found: "Prediction", frames: dict[int, list[float]]) -> str:
    from d2st.scoring import sigmoid

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for face in found.faces:
        for window in face.windows:
            numbers = (window.probability, sigmoid(window.logit), window.logit)
            doubts = " ".join(doubt.code for doubt in window.doubts)
            times = _rounded((window.start_s, window.end_s), 3)
            writer.writerow(("window", face.number, *times, *_rounded(numbers), window.frames, "", doubts, *[""] * 4))
    for face in found.faces:
        rows = zip(face.timestamps_s, frames[face.number], face.frame_scores, face.boxes, strict=True)
        for time_s, probability, score, box in rows:
            numbers = _rounded((probability, score))
            writer.writerow(("frame", face.number, *_rounded((time_s, time_s), 3), *numbers, "", 1, "", "", *_rounded(box, 1)))
    for gap in _gaps(found):
        writer.writerow(("gap", "", *_rounded((gap.start_s, gap.end_s), 3), "", "", "", 0, gap.reason, "", *[""] * 4))
    return text.getvalue()


def _rounded(values: Iterable[float], decimals: int = 6) -> list[float]:
    return [round(value, decimals) for value in values]


def _png(found: "Prediction", frames: dict[int, list[float]]) -> bytes:
    from d2st.adapter.evaluate.timeline import Line, timeline_png
    from d2st.cli.predict_inputs import shown

    lines = [
        Line(
            f"face {face.number}",
            [(window.start_s, window.end_s, window.probability) for window in face.windows],
            list(zip(face.timestamps_s, frames[face.number], strict=True)),
        )
        for face in found.faces
    ]
    verdict = "fake" if found.fake else "real"
    ends = [window.end_s for window in found.windows]
    return timeline_png(
        lines,
        gaps=[(gap.start_s, gap.end_s) for gap in _gaps(found)],
        threshold=found.threshold,
        duration_s=max([found.duration_s or 0, *ends]),
        title=f"{shown(Path(found.path).name)}: P(fake) {found.probability:.3f}, {verdict}",
    )
