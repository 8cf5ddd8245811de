"""`d2st predict`: score media files with a trained run."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["check_window", "newest_run", "predict"]


def predict(
    files: Annotated[
        list[Path], typer.Argument(help="Images, videos, folders; - reads more of them from stdin.", metavar="FILE...")
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="A run, one of its stages, a checkpoint, or an exported detector [default: the newest in ./runs]."),
    ] = None,
    all_faces: Annotated[bool, typer.Option("--all-faces", help="Score each face that can be followed.")] = False,
    window: Annotated[
        float | None,
        typer.Option(
            help="Score videos of more than twice these seconds in windows of them [default: a training clip's length]."
        ),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(
            help="Cut at the lowest threshold whose false positive rate on validation is at most this [default: the equal-error point]."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a row a file to this .parquet or .csv; what it holds already is not scored again."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="With --out: start the table anew.")] = False,
    timeline: Annotated[
        Path | None, typer.Option(help="For each video, write scores over time into this folder: NAME.csv and NAME.png.")
    ] = None,
    annotate: Annotated[
        bool, typer.Option("--annotate", help="With --timeline: write NAME.mp4 too, with faces and scores drawn.")
    ] = False,
    per_frame: Annotated[bool, typer.Option("--frames", help="Show the scores of each frame too.")] = False,
    null: Annotated[bool, typer.Option("--null", help="Names on stdin end in NUL, as `find -print0` writes them.")] = False,
    pretrained: Annotated[str | None, typer.Option(help="The backbone's weights, if not where the build had them.")] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="The face detector's ONNX file, if the cache used one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: one a core].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Score files: the calibrated probability that each is fake, the verdict, and what is in doubt about it.

    Long videos come in windows, and their score is the mean over these; memory does not grow with their length. Folders are searched, and a
    folder of numbered images is one video. A file that can't be used gets a row with its reason and the rest goes on; the exit code is 1
    only if no file could be scored.

    The verdict is fake above the threshold that is stored in the checkpoint, chosen on validation.

    \b
    Examples:
      d2st predict clip.mp4 photo.jpg --run runs/faces
      d2st predict talk.mp4 --run runs/faces --timeline out/ --annotate
      d2st predict crowd.mp4 --run runs/faces --all-faces --fpr 0.01
      d2st predict /data/inbox --run runs/faces --out scores.parquet
      find /data -name '*.mp4' | d2st predict - --run runs/faces --out scores.parquet
      d2st predict *.mp4 --run runs/faces/stage3 --json > scores.json
    """
    from d2st.cache.errors import ConfigError, UsageError
    from d2st.cli.predict_inputs import STDIN, expand
    from d2st.cli.predict_results import check_name
    from d2st.cli.predict_run import Output, score_files
    from d2st.cli.show import stderr
    from d2st.detection import Detector

    _check(fpr=fpr, window=window, out=out, fresh=fresh, timeline=timeline, annotate=annotate, per_frame=per_frame)
    if null and Path(STDIN) not in files:
        raise UsageError("--null is of names on stdin, and none are read from there", fix="Add -, or leave --null out")
    if out is not None:
        check_name(out)
    paths = expand(files, null=null)
    if not paths:
        named = ", ".join(map(str, files))
        raise ConfigError(f"there are no media files in {named}", fix="Name images, videos, or folders that hold some")
    output = Output(out, fresh=fresh, timeline=timeline, annotate=annotate, per_frame=per_frame, as_json=as_json)
    if timeline is not None:
        output.timelines(paths)  # what would replace one of the files is refused before any work
    detector = Detector.load(
        run or newest_run(Path("runs")), pretrained=pretrained, detector_weights=detector_weights, device=device
    )
    options: dict[str, Any] = {"all_faces": all_faces, "window_s": window or detector.clip_s, "fpr": fpr}
    if window is None and detector.clip_s is None:
        message = (
            "note: this detector does not know how long its training clips were: long videos are one clip each; see --window"
        )
        stderr().print(message, markup=False, soft_wrap=True)
    if not score_files(detector, paths, output, options=options, workers=workers):
        raise typer.Exit(1)


def newest_run(runs: Path) -> Path:
    """The folder of the run in `runs` that was trained last. Raises RunError when there is none."""
    from d2st.cache.errors import RunError

    found = sorted(runs.glob("*/stage*/best.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(
            f"there is no trained run in {runs.resolve()}",
            fix="Name one with --run, or train one: d2st train --cache CACHE --stage all",
        )
    return found[-1].parent.parent


def check_window(window: float | None) -> None:
    """Raise UsageError for a --window that is no length of time."""
    from d2st.cache.errors import UsageError

    if window is not None and not 0 < window < float("inf"):
        raise UsageError(f"--window {window:g} is no length of time", fix="Give seconds, such as 4")


def _check(
    *,
    fpr: float | None,
    window: float | None,
    out: Path | None,
    fresh: bool,
    timeline: Path | None,
    annotate: bool,
    per_frame: bool,
) -> None:
    """Raise UsageError for options that make no sense, alone or together."""
    from d2st.cache.errors import UsageError

    if fpr is not None and not 0 < fpr < 1:
        raise UsageError(f"--fpr {fpr:g} is no rate between 0 and 1", fix="Give one such as 0.01")
    check_window(window)
    if annotate and timeline is None:
        raise UsageError("--annotate needs a folder to write into", fix="Name it with --timeline")
    if fresh and out is None:
        raise UsageError(
            "--fresh starts the table of --out anew, and there is none", fix="Name it with --out, or leave --fresh out"
        )
    if per_frame and out is not None:
        raise UsageError("--frames shows scores on the screen, and --out writes a row a file", fix="Leave one of them out")
