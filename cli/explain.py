"""`d2st explain`: why a file has its score, drawn and in numbers; with --check, whether such drawings can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.evaluate import Split
from d2st.cli.predict_inputs import shown

if TYPE_CHECKING:
    from rich.table import Table

    from d2st.cache.errors import D2stError
    from d2st.detection import Detector
    from d2st.explanation import Explanation

__all__ = ["explain"]

SUFFIXES = (".json", ".png", ".mp4")  # of what is written


def explain(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Images, videos, folders; - reads more of them from stdin.", metavar="FILE...")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run, one of its stages, or a checkpoint [default: the newest in ./runs].")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write NAME.png, NAME.mp4 and NAME.json into.")] = Path("why"),
    window: Annotated[
        float | None,
        typer.Option(help="Look at videos of more than twice these seconds in windows [default: a training clip's length]."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Measure on the fakes of this cache whether the maps are faithful.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="With --check: the demo's corpus, which knows where its fakes were made."),
    ] = None,
    split: Annotated[Split, typer.Option(help="With --check: which samples.")] = Split.test,
    base: Annotated[
        str, typer.Option(help="With --check: what deleted pixels become: genuine (the unmanipulated recording) or blur.")
    ] = "genuine",
    max_samples: Annotated[int | None, typer.Option(min=2, help="With --check: no more than these.  [default: all]")] = None,
    pretrained: Annotated[str | None, typer.Option(help="The backbone's weights, if not where the build had them.")] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="The face detector's ONNX file, if the cache used one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: one a core].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show where and when a detector found what it found: relevance, attention, the places that D2ST looked at, and what each layer adds.

    Writes a figure (PNG), the same over time (mp4) and all numbers (JSON) for each file. Of a long video the most suspicious window is
    explained. A file that can't be used gets a row with its reason; the exit code is 1 only if none could be explained.

    --check says how far to trust it: it restores the genuine pixels of each fake in the order that a map gives (deletion and insertion
    curves), and looks whether the map points at what was manipulated, next to random maps, maps of other clips, and a bump in the middle.

    \b
    Examples:
      d2st explain clip.mp4 --run runs/faces
      d2st explain photo.jpg talk.mp4 --run runs/faces --out why/
      d2st explain --check demo/faces.d2st --masks demo/corpus --run demo/runs/demo
      d2st explain --check demo/faces.d2st --masks demo/corpus --run demo/runs/demo --base blur --max-samples 40
    """
    from d2st.cache.errors import UsageError
    from d2st.cli.predict import check_window, newest_run
    from d2st.cli.predict_inputs import expand
    from d2st.detection import Detector

    if (check is None) == (not files):
        raise UsageError("name files to explain, or a cache with --check", fix="d2st explain clip.mp4 --run RUN")
    if check is not None and masks is None:
        raise UsageError("--check needs to know where its fakes were manipulated", fix="Name the demo's corpus: --masks CORPUS")
    if check is None and (masks is not None or max_samples is not None):
        raise UsageError("--masks and --max-samples are for --check alone", fix="Add --check STORE, or leave them out")
    if base not in ("genuine", "blur"):
        raise UsageError(f"--base can't be {base!r}", fix="Use genuine or blur")
    check_window(window)
    paths = expand(files or [], null=False)
    names = _names(paths, out)
    detector = Detector.load(
        run or newest_run(Path("runs")), pretrained=pretrained, detector_weights=detector_weights, device=device
    )
    if check is not None:
        from d2st.cli.explain_check import run_check

        run_check(
            detector,
            check,
            masks,
            split=split.value,
            genuine=base == "genuine",
            max_samples=max_samples,
            workers=workers,
            out=out,
            as_json=as_json,
        )
        return
    _explain(detector, paths, names, out=out, window_s=window or detector.clip_s, workers=workers, as_json=as_json)


def _explain(
    detector: "Detector",
    paths: list[Path],
    names: list[str],
    *,
    out: Path,
    window_s: float | None,
    workers: int | None,
    as_json: bool,
) -> None:
    from d2st.cli.progress import phases
    from d2st.cli.show import print_json, stdout
    from d2st.explaining import explain_files

    rows: list[dict[str, Any]] = []
    with phases({"files": ("explain", "files")}, quiet=len(paths) == 1) as on_progress:
        on_progress("files", 0, len(paths))
        explained = explain_files(detector, paths, window_s=window_s, workers=workers)
        for path, name, found in zip(paths, names, explained, strict=True):
            rows.append(_failure(path, found) if isinstance(found, Exception) else _row(found, found.write(out, name=name)))
            on_progress("files", len(rows), len(paths))
    if as_json:
        print_json(rows)
    else:
        stdout().print(_table(rows))
    if all("reason" in row for row in rows):
        raise typer.Exit(1)


def _row(found: "Explanation", written: list[Path]) -> dict[str, Any]:
    named = ("kind", "start_s", "end_s", "windows", "logit", "score", "probability", "threshold", "fake")
    strongest = found.evidence.relevance.total.clip(min=0).sum(axis=(1, 2)).argmax()
    return {
        "path": shown(found.path),
        **{name: getattr(found, name) for name in named},
        "most_evidence_s": found.timestamps_s[int(strongest)],
        "layers": {share.layer: share.ablation for share in found.evidence.layers},
        "written": [shown(path) for path in written],
    }


def _failure(path: Path, error: "D2stError") -> dict[str, Any]:
    return {"path": shown(path), "reason": getattr(error, "reason", "unusable"), "message": error.message, "fix": error.fix}


def _table(rows: list[dict[str, Any]]) -> "Table":
    from d2st.cli.show import table

    lines = []
    for row in rows:
        if "reason" in row:
            lines.append((row["path"], "", "", "", "", f"{row['reason']}: {row['message']}"))
            continue
        when = f"{row['most_evidence_s']:.2f} s" if row["kind"] != "image" else ""
        layers = ", ".join(f"{layer} {value:+.1f}" for layer, value in row["layers"].items())
        written = [Path(path) for path in row["written"]]
        where = f"{written[0].with_suffix('')}.{{{','.join(path.suffix[1:] for path in written)}}}"
        lines.append((row["path"], f"{row['probability']:.3f}", "fake" if row["fake"] else "real", when, layers, where))
    columns = ("file", "P(fake)", "verdict", "most evidence", "logits lost without", "written, or why not")
    return table("explained", columns, lines, right=("P(fake)", "most evidence"))


def _names(paths: list[Path], out: Path) -> list[str]:
    """A name for each file's drawings: its own without the ending, or with it where two would be the same.

    Raises UsageError where two still are, or where a drawing would be written over one of the files.
    """
    from d2st.cache.errors import UsageError

    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two files are named {twice[0]}, and so would be their drawings", fix="Explain them into two folders")
    sources = {path.resolve() for path in paths}
    over = [path for name in names for suffix in SUFFIXES if (path := (out / f"{name}{suffix}").resolve()) in sources]
    if over:
        raise UsageError(f"{over[0].name} would be written over by its own explanation", fix="Name another folder with --out")
    return names
