"""The loop of `d2st predict`: files through a detector, and each result to where it belongs as soon as it is there."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import D2stError

if TYPE_CHECKING:
    from d2st.detection import Detector
    from d2st.prediction import Prediction, Window

__all__ = ["Output", "score_files"]

PHASES = {"files": ("score", "files"), "windows": ("long videos", "windows")}


@dataclass(frozen=True)
class Output:
    """Where results go: a table at `table` (or the screen), and scores over time in the folder `timeline`."""

    table: Path | None
    fresh: bool
    timeline: Path | None
    annotate: bool
    per_frame: bool
    as_json: bool

    def timelines(self, sources: Sequence[Path]) -> dict[Path, Path]:
        """Where the timeline of each video goes, without an ending: the same for the same files, however many of them are done already.

        Raises UsageError if one would replace one of the files to be scored.
        """
        from d2st.cli.predict_timeline import Namer
        from d2st.detection import media_kind

        endings = (".csv", ".png", ".mp4") if self.annotate else (".csv", ".png")
        namer = Namer(self.timeline, sources, endings=endings)
        return {path: namer.name(path) for path in sources if media_kind(path) != "image"}


def score_files(
    detector: "Detector", paths: Sequence[Path], output: Output, *, options: dict[str, Any], workers: int | None
) -> bool:
    """Score `paths`, show and keep what comes of it; returns whether there is a score for any of them.

    Args:
        options: all_faces, window_s and fpr of `Detector.predict_files`; a table keeps them with its rows.
    """
    from d2st.cli.predict_results import Results
    from d2st.cli.predict_show import Counts, show_document, show_results, show_table, throughput
    from d2st.cli.progress import phases
    from d2st.cli.show import stderr
    from d2st.pipeline.manifest.notes import counted

    counts, clocks = Counts(), {}
    results: list[tuple[Path, Prediction | D2stError]] = []
    timelines = output.timelines(paths) if output.timeline else {}
    notes: list[str | None] = []
    began = perf_counter()
    with ExitStack() as stack:
        table: Results | None = None
        if output.table is not None:
            settings = {"checkpoint": detector.opened.digest, **options}
            table = stack.enter_context(Results(output.table, settings, fresh=output.fresh))
        todo = [path for path in paths if table is None or not table.has(path)]
        on_progress = stack.enter_context(phases(PHASES))
        if len(todo) > 1:
            on_progress("files", 0, len(todo))
        found_files = detector.predict_files(
            todo, **options, workers=workers, clocks=clocks, on_window=_window_counter(on_progress)
        )
        for path, found in zip(todo, found_files, strict=True):
            counts.add(found)
            if path in timelines and not isinstance(found, Exception):
                notes.append(_write_timeline(path, found, timelines[path], detector=detector, annotate=output.annotate))
            if table is not None:
                table.add(path, found)  # last: what has a row is done, and no later run comes back to it
            else:
                results.append((path, found))
            if len(todo) > 1:
                on_progress("files", counts.files, len(todo))
    seconds = perf_counter() - began
    if output.table is not None:
        show_table(output.table, counts, there=len(paths) - len(todo), as_json=output.as_json)
    elif output.as_json:
        show_document(results)
    else:
        show_results(results, detector=detector, fpr=options["fpr"], per_frame=output.per_frame)
    if output.timeline is not None:
        notes.append(
            f"{counted(len(notes), 'timeline')} in {output.timeline}" + " (images have none)" * (len(notes) < counts.scored)
        )
    for note in filter(None, notes):
        stderr().print(f"note: {note}", markup=False, soft_wrap=True)
    stderr().print(throughput(counts, clocks, seconds), markup=False, soft_wrap=True)
    return counts.scored > 0 or len(todo) < len(paths)


def _window_counter(on_progress: "Callable[[str, int, int | None], None]") -> "Callable[[str, Window], None]":
    """Counts the windows of long videos; how many there will be is not known."""
    now, inside, done = "", 0, 0

    def count(path: str, window: "Window") -> None:
        nonlocal now, inside, done
        inside = inside + 1 if path == now else 1
        now = path
        if inside > 1:
            done += 1 if inside > 2 else 2
            on_progress("windows", done, None)

    return count


def _write_timeline(path: Path, found: "Prediction", target: Path, *, detector: "Detector", annotate: bool) -> str | None:
    """Write what `--timeline` asks for; returns why there is not all of it."""
    from d2st.cli.predict_inputs import shown
    from d2st.cli.predict_timeline import write_timeline

    try:
        done = write_timeline(found, target, detector=detector, annotate=annotate and found.kind == "video")
    except D2stError as error:
        return f"no annotated video of {shown(path)}: {error.message}"
    if done is not None and done.sound == "left out":
        return f"the annotated {shown(path)} is silent: MP4 does not take the video's sound as it is"
    return f"{shown(path)} is a folder: no annotated video" if annotate and found.kind == "frames" else None
