"""`d2st eval`: honest scores of a trained run on any split, of one data set or several."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.show import print_json, stdout, table

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

__all__ = ["evaluate", "summary_tables"]


class Split(StrEnum):
    train = "train"
    val = "val"
    test = "test"


def evaluate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="runs/NAME, runs/NAME/stageN, or a checkpoint.", show_default=False)
    ],
    cache: Annotated[
        list[Path] | None, typer.Option(metavar="STORE", help="May be repeated.  [default: the cache it was trained on]")
    ] = None,
    manifest: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Labels and splits to use; may be repeated.  [default: the cache's own]"),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which samples to score.")] = Split.test,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to write.  [default: the stage's folder, eval-SPLIT, or eval-SPLIT-CACHE for another cache]",
        ),
    ] = None,
    perturb: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="How AUC falls when crops get worse: all, or some of jpeg,blur,noise,resize,h264."),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=2, help="With --perturb: no more than these, balanced by label and video.  [default: all]")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="With --perturb: the backbone's weights, if not where the build had them.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json on stdout.")] = False,
) -> None:
    """Score a split with a trained run: AUC, EER, average precision, accuracy, F1, per data set and per manipulation.

    RUN is runs/NAME (its highest stage), runs/NAME/stageN, or a checkpoint file. Intervals hold 95 % of 1,000 bootstrap resamples of whole
    videos. Where the split holds both images and videos, the gap between them is told too. Writes predictions (Parquet and CSV),
    metrics.json and plots (ROC curves, score histograms).

    --perturb changes the cached crops at five severities, encodes them again with the backbone, and adds robustness.json and curves.

    \b
    Examples:
      d2st eval runs/faces
      d2st eval runs/faces/stage2 --split val
      d2st eval runs/faces --cache celeb.d2st --cache dfdc.d2st --out results/cross
      d2st eval runs/faces --cache wild.d2st --manifest relabelled.parquet --out results/wild
      d2st eval runs/faces --perturb all --max-samples 400
      d2st eval runs/faces --json > metrics.json
    """
    from d2st.adapter.evaluate.run import evaluate_run, open_matching
    from d2st.adapter.train.checkpoint import load_detector, resolve_checkpoint
    from d2st.adapter.train.log import gap_line
    from d2st.cache.device import pick_device
    from d2st.cli.perturb import open_study
    from d2st.cli.progress import phases
    from d2st.cli.robustness import run_study

    checkpoint = resolve_checkpoint(run)
    device = pick_device(device)
    detector, meta = load_detector(checkpoint, device=device)
    paths = cache or [_training_cache(checkpoint)]
    stores = [open_matching(path, config=meta["config"], layers=meta["layers"]) for path in paths]
    out = out or checkpoint.parent / f"eval-{split.value}{_suffix(checkpoint, cache)}"
    title = f"{checkpoint.parent.parent.name}, stage {meta['stage']}: {split.value} split"
    # before any work, so that a wrong option costs none
    study = open_study(perturb, stores, detector, meta, max_samples=max_samples, pretrained=pretrained, device=device)
    with phases({"samples": ("score", "samples")}, quiet=as_json) as on_progress:
        summary = evaluate_run(
            detector,
            stores,
            layers=meta["layers"],
            clip_frames=meta["clip_frames"],
            out_dir=out,
            title=title,
            split=split.value,
            manifest=_read_manifests(manifest),
            device=device,
            trained_on=_trained_on(checkpoint, stage=meta["stage"]),
            gap=True,
            about={key: meta.get(key) for key in ("stage", "adapter", "epoch", "seed", "fingerprint", "shuffled_labels")},
            on_progress=lambda done, total: on_progress("samples", done, total),
        )
    if not as_json:
        for made in summary_tables(summary):
            stdout().print(made)
        if summary["gap"]:
            stdout().print(gap_line(summary["gap"]), markup=False, soft_wrap=True)
    if study is not None:
        summary["robustness"] = run_study(
            study, summary, manifest=_read_manifests(manifest), out=out, title=title, quiet=as_json
        )
    if as_json:
        print_json(summary)
    else:
        stdout().print(f"Predictions, metrics and plots are in {out}", markup=False, soft_wrap=True)


def summary_tables(summary: dict[str, Any]) -> Iterator["Table"]:
    """What `d2st eval` prints: scores per data set and kind, per manipulation, and what was not or not fully scored."""
    datasets = summary["datasets"]
    scopes = [(name, kind, scope) for name, found in datasets.items() for kind, scope in found["kinds"].items()]
    if len(datasets) > 1:
        scopes += [("all", kind, scope) for kind, scope in summary["kinds"].items()]
    rates = {"auc": "AUC", "eer": "EER", "average_precision": "AP", "accuracy": "accuracy", "f1": "F1"}
    columns = ["data set", "kind", "real", "fake", *rates.values(), "frame AUC"]
    rows = [
        [name, kind, *_counts(scope), *(_with_interval(scope["video"], key) for key in rates), _number(scope["frame"]["auc"])]
        for name, kind, scope in scopes
    ]
    yield table(f"Scores on the {summary['split']} split, by video_id (95 % interval)", columns, rows, right=columns[2:])

    columns = ["data set", "kind", "manipulation", "real", "fake", "AUC", "frame AUC", "EER", "AP"]
    rows = [
        [name, kind, method, *_counts(scope), _with_interval(scope["video"], "auc"), _number(scope["frame"]["auc"])]
        + [_number(scope["video"][key]) for key in ("eer", "average_precision")]
        for name, kinds in summary["methods"].items()
        for kind, methods in kinds.items()
        for method, scope in methods.items()
    ]
    yield table("Per manipulation, each against the reals of its data set and kind", columns, rows, right=columns[3:])

    samples = summary["samples"]
    rows = [["scored", samples["scored"]], [f"of these padded: fewer than {samples['clip_frames']} frames", samples["padded"]]]
    if samples["trained_on"]:
        rows.append(["of these seen in training: the scores are too good", samples["trained_on"]])
    rows += [[f"left out: {reason}", count] for reason, count in samples["dropped_by_reason"].items()] or [["left out", 0]]
    yield table("Samples", ["", "count"], rows, right=["count"])

    notes = [[f"{name} {kind}", scope["note"]] for name, kind, scope in scopes if scope["note"]]
    if notes:
        yield table("Not computed", ["where", "why"], notes)


def _counts(scope: dict[str, Any]) -> list[int]:
    return [scope["video"]["n_real"], scope["video"]["n_fake"]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(level: dict[str, Any], key: str) -> str:
    interval = level["intervals"].get(key)
    # the spaces are where a narrow terminal may break the line
    low, high = (f"{bound:.3f}".removeprefix("0") for bound in interval) if interval else ("", "")
    return f"{_number(level[key])} {low} - {high}" if interval else _number(level[key])


def _training_cache(checkpoint: Path) -> Path:
    """The cache that the run remembers, relative to its own folder."""
    from d2st.adapter.train.rundir import read_json
    from d2st.cache.errors import RunError

    record = checkpoint.parent / "fingerprint.json"
    remembered = read_json(record).get("cache_path") if record.is_file() else None
    if not remembered or not (checkpoint.parent / remembered).is_dir():
        lost = "the cache was moved" if remembered else f"nothing beside {checkpoint.name} says which cache"
        raise RunError(f"can't tell what to score: {lost}", fix="Name the cache: --cache STORE")
    return checkpoint.parent / remembered


def _trained_on(checkpoint: Path, *, stage: int) -> set[str]:
    """Samples that this stage, and the stages of this run before it, were trained on."""
    import polars as pl

    records = [checkpoint.parent.parent / f"stage{number}" / "samples.parquet" for number in range(1, stage + 1)]
    found = [pl.read_parquet(path).filter(pl.col("split") == "train")["sample_id"] for path in records if path.is_file()]
    return set().union(*found)


def _suffix(checkpoint: Path, caches: list[Path] | None) -> str:
    """Nothing for the training cache, else the names of the caches: results of other data must not replace its own."""
    from d2st.cache.errors import RunError

    try:
        own = _training_cache(checkpoint).resolve()
    except RunError:
        own = None
    others = [path for path in caches or [] if path.resolve() != own]
    return "".join(f"-{path.stem}" for path in caches or []) if others else ""


def _read_manifests(paths: list[Path] | None) -> "pl.DataFrame | None":
    import polars as pl

    from d2st.pipeline.manifest import read_manifest

    return pl.concat([read_manifest(path) for path in paths]) if paths else None
