"""`d2st predict`: score media files with a trained run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from d2st.cache.errors import D2stError
    from d2st.detection import Prediction

__all__ = ["predict"]


def predict(
    files: Annotated[list[Path], typer.Argument(help="Images, videos, or folders of frames.", metavar="FILE...")],
    run: Annotated[
        Path | None, typer.Option(help="A run, one of its stages, or a checkpoint [default: the newest in ./runs].")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="The backbone's weights, if not where the build had them.")] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="The face detector's ONNX file, if the cache used one.")] = None,
    per_frame: Annotated[bool, typer.Option("--frames", help="Show the score of each frame too.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: one a core].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Score files: the probability that each is fake, for the file and for each of its frames.

    A file that can't be used gets a row with its reason and the rest goes on; the exit code is 1 only if no file could be scored.

    \b
    Examples:
      d2st predict clip.mp4 --run runs/faces
      d2st predict photo.jpg clip.mp4 folder_of_frames/ --run runs/faces --frames
      d2st predict *.mp4 --run runs/faces/stage3 --json > scores.json
    """
    from d2st.cli.progress import phases
    from d2st.detection import Detector

    detector = Detector.load(
        run or _newest_run(Path("runs")), pretrained=pretrained, detector_weights=detector_weights, device=device
    )
    results: list[tuple[Path, Prediction | D2stError]] = []
    with phases({"files": ("score", "files")}, quiet=len(files) == 1) as on_progress:
        on_progress("files", 0, len(files))
        for path, found in zip(files, detector.predict_files(files, workers=workers), strict=True):
            results.append((path, found))
            on_progress("files", len(results), len(files))
    _show(results, per_frame=per_frame, as_json=as_json)
    if all(isinstance(found, Exception) for _, found in results):
        raise typer.Exit(1)


def _newest_run(runs: Path) -> Path:
    from d2st.cache.errors import RunError

    found = sorted(runs.glob("*/stage*/best.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(
            f"there is no trained run in {runs.resolve()}",
            fix="Name one with --run, or train one: d2st train --cache CACHE --stage all",
        )
    return found[-1].parent.parent


def _show(results: "list[tuple[Path, Prediction | D2stError]]", *, per_frame: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from d2st.cli.show import print_json, stdout, table

    if as_json:
        print_json(
            [{"path": str(p), **_failure(found)} if isinstance(found, Exception) else asdict(found) for p, found in results]
        )
        return
    rows = []
    for path, found in results:
        if isinstance(found, Exception):
            failure = _failure(found)
            rows.append((path, "", "", "", f"{failure['reason']}: {failure['message']}"))
        else:
            verdict = "fake" if found.score > 0.5 else "real"
            rows.append(
                (
                    path,
                    f"{found.score:.3f}",
                    verdict,
                    len(found.frame_scores),
                    _profile(found) if len(found.frame_scores) > 1 else "",
                )
            )
    console = stdout()
    console.print(
        table("P(fake)", ("file", "score", "verdict", "frames", "over time, or why not"), rows, right=("score", "frames"))
    )
    if per_frame:
        for path, found in results:
            if not isinstance(found, Exception):
                lines = [
                    (f"{time:.2f} s", f"{score:.3f}")
                    for time, score in zip(found.timestamps_s, found.frame_scores, strict=True)
                ]
                console.print(table(str(path), ("time", "P(fake)"), lines, right=("time", "P(fake)")))


def _failure(error: "D2stError") -> dict[str, str]:
    return {"reason": getattr(error, "reason", "unusable"), "message": error.message, "fix": error.fix}


def _profile(found: "Prediction") -> str:
    """Frame scores as a row of blocks, low to high."""
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[min(int(score * len(blocks)), len(blocks) - 1)] for score in found.frame_scores)
