"""How `d2st predict` shows results: a table for people, one JSON document for scripts, and what the time went into."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from d2st.cli.predict_inputs import shown

if TYPE_CHECKING:
    from d2st.cache.errors import D2stError
    from d2st.detection import Detector
    from d2st.pipeline.build.flow import Clock
    from d2st.prediction import Prediction

__all__ = ["Counts", "show_document", "show_results", "show_table", "throughput"]

BLOCKS = "▁▂▃▄▅▆▇█"
PROFILE_CELLS = 16
MIN_NAME, OTHER_COLUMNS = 24, 56  # characters
NAMES = {"image": "images", "video": "videos", "frames": "folders of frames"}
PARTS = {"decode": "decoding", "faces": "faces", "clip": "CLIP", "adapter": "adapter"}


class Counts:
    """What became of the files of a run, counted as they come."""

    def __init__(self) -> None:
        self.fake = self.real = self.frames = 0
        self.video_s = 0.0
        self.failed: Counter[str] = Counter()

    def add(self, found: "Prediction | D2stError") -> None:
        if isinstance(found, Exception):
            self.failed[getattr(found, "reason", "unusable")] += 1
            return
        self.fake += found.fake
        self.real += not found.fake
        self.frames += sum(len(face.frame_scores) for face in found.faces)
        self.video_s += found.duration_s or 0.0

    @property
    def scored(self) -> int:
        return self.fake + self.real

    @property
    def files(self) -> int:
        return self.scored + sum(self.failed.values())


def show_document(results: "Sequence[tuple[Path, Prediction | D2stError]]") -> None:
    """Print one JSON document with an entry a file."""
    from d2st.cli.show import print_json

    print_json(
        [{"path": shown(p), **_failure(f)} if isinstance(f, Exception) else {**asdict(f), "path": shown(p)} for p, f in results]
    )


def show_table(path: Path, counts: Counts, *, there: int, as_json: bool) -> None:
    """Print what the table at `path` was given; `there` rows were in it before."""
    from d2st.cli.show import print_json, stdout

    if as_json:
        told = {"out": str(path), "scored": counts.scored, "fake": counts.fake, "real": counts.real}
        print_json({**told, "failed": dict(sorted(counts.failed.items())), "there_already": there})
        return
    words = f"{counts.scored} scored ({counts.fake} fake, {counts.real} real)"
    if counts.failed:
        words += f", {sum(counts.failed.values())} not: " + ", ".join(
            f"{n} {reason}" for reason, n in counts.failed.most_common()
        )
    if there:
        words += f"; {there} were there already"
    stdout().print(f"{path}: {words}", markup=False, soft_wrap=True)


def show_results(
    results: "Sequence[tuple[Path, Prediction | D2stError]]", *, detector: "Detector", fpr: float | None, per_frame: bool
) -> None:
    """Print a row a file, and below it what there is to say of each; with `per_frame` a table a file too."""
    from d2st.cli.show import stdout, table

    console = stdout()
    folder = _common_folder([path for path, _ in results])
    rows, notes = [], {}
    for path, found in results:
        name = _fitting(
            shown(path if folder is None else path.relative_to(folder)), max(MIN_NAME, console.width - OTHER_COLUMNS)
        )
        if isinstance(found, Exception):
            failure = _failure(found)
            rows.append((name, "", "", "", f"{failure['reason']}: {found.message.removeprefix(f'{shown(path)}: ')}"))
            continue
        doubts = "; ".join(doubt.words for doubt in found.doubts)
        rows.append((name, f"{found.probability:.3f}", "fake" if found.fake else "real", _profile(found, detector), doubts))
        for note in found.notes:
            notes.setdefault(note, []).append(name)
    columns = ("file", "P(fake)", "verdict", "over time", "in doubt, or why not")
    used = [place for place in range(len(columns)) if place < 3 or any(row[place] for row in rows)]
    picked = [[row[place] for place in used] for row in rows]
    title = "P(fake)" if folder is None else f"P(fake) in {shown(folder)}"
    console.print(table(title, [columns[place] for place in used], picked, right=("P(fake)",)))
    for kind in dict.fromkeys(found.kind for _, found in results if not isinstance(found, Exception)):
        console.print(_about_threshold(detector, kind, fpr), markup=False)
    for note, names in notes.items():
        about = f"{names[0]}: " if 0 < len(names) < len(results) else ""
        console.print(f"{about}{note}", markup=False)
    for path, found in results:
        if per_frame and not isinstance(found, Exception):
            _show_frames(path, found, detector)


def _about_threshold(detector: "Detector", kind: str, fpr: float | None) -> str:
    """Where files of `kind` are cut, and how often that is wrong."""
    cut = detector.operating.threshold(kind, fpr)
    words = f"{NAMES[kind]} are called fake above {detector.operating.probability(kind, cut.logit):.3f}"
    if cut.fpr is None:
        return words
    wrong = f"{cut.fpr:.1%} of {cut.n_real} real and {1 - cut.tpr:.1%} of {cut.n_fake} fake ones"
    return f"{words}; on validation that is wrong for {wrong}"


def _fitting(name: str, width: int) -> str:
    """The end of a path, which tells more than its beginning."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _common_folder(paths: Sequence[Path]) -> Path | None:
    """The folder that several files have in common, so that its name need not be in every row."""
    folders = {path.parent for path in paths}
    if len(paths) < 2 or len({folder.is_absolute() for folder in folders}) > 1:
        return None
    common = Path(os.path.commonpath(folders))
    return None if str(common) in (".", common.anchor) else common


def _failure(error: "D2stError") -> dict[str, str]:
    return {"reason": getattr(error, "reason", "unusable"), "message": error.message, "fix": error.fix}


def _show_frames(path: Path, found: "Prediction", detector: "Detector") -> None:
    """Print the scores of each frame of each face."""
    from d2st.cli.show import stdout, table

    console = stdout()
    for face in found.faces:
        name = f"{shown(path)}, face {face.number}" if len(found.faces) > 1 else shown(path)
        values = zip(face.timestamps_s, detector.calibrated(found.kind, face.frame_scores), face.frame_scores, strict=True)
        lines = [(f"{time:.2f} s", f"{probability:.3f}", f"{score:.3f}") for time, probability, score in values]
        columns = ("time", "P(fake)", "raw score")
        console.print(name, markup=False, soft_wrap=True)
        console.print(table("", columns, lines, right=columns))


def throughput(counts: Counts, clocks: "Mapping[str, Clock]", seconds: float) -> str:
    """One line: how fast it went, and which share of the work each part had."""
    from d2st.cli.show import human_time
    from d2st.pipeline.manifest.notes import counted

    size = f"{counted(counts.files, 'file')}, {counted(counts.frames, 'frame')}"
    words = f"{size} in {human_time(seconds)}: {counts.files / max(seconds, 1e-9):.2g} files/s"
    if counts.video_s:
        words += f", {counts.video_s / max(seconds, 1e-9):.2g} x real time"
    busy = {name: clocks[key].busy_s for key, name in PARTS.items() if key in clocks}
    total = sum(busy.values())
    if total:
        words += "; of the work " + ", ".join(f"{name} {share / total:.0%}" for name, share in busy.items())
    return words


def _profile(found: "Prediction", detector: "Detector") -> str:
    """P(fake) over time as a row of blocks, low to high: of windows, or of a clip's frames; a dot where there is nothing."""
    several = len(found.windows) > 1
    values = (
        [window.probability for window in found.windows] if several else detector.calibrated(found.kind, found.frame_scores)
    )
    if len(values) < 2:
        return ""
    cells = min(len(values), PROFILE_CELLS)
    parts = [values[k * len(values) // cells : (k + 1) * len(values) // cells] for k in range(cells)]
    highest = [max((value for value in part if value is not None), default=None) for part in parts]
    return "".join("·" if value is None else BLOCKS[min(int(value * len(BLOCKS)), len(BLOCKS) - 1)] for value in highest)
