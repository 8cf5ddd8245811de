"""`d2st eval`: honest scores of a trained run on any split, of one data set or several."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.evaluate_place import evaluation_folder, training_cache
from d2st.cli.evaluate_tables import summary_tables
from d2st.cli.show import print_json, stdout

if TYPE_CHECKING:
    import polars as pl

    from d2st.adapter.nets.detector import Detector

__all__ = ["Split", "evaluate"]


class Split(StrEnum):
    train = "train"
    val = "val"
    test = "test"


class Protocol(StrEnum):
    deepfakebench = "deepfakebench"


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
    protocol: Annotated[
        Protocol | None, typer.Option(help="Measure the way this benchmark does too, and say where that differs.")
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
    """Score a split with a trained run: AUC, EER, AP, TPR at 1 and 5 % FPR, calibration, per data set and per manipulation.

    RUN is runs/NAME (its highest stage), runs/NAME/stageN, or a checkpoint file. Intervals hold 95 % of 1,000 bootstrap resamples of whole
    videos. Where the split holds both images and videos, the gap between them is told too. Writes predictions (Parquet and CSV),
    metrics.json and plots (ROC curves, score histograms).

    The temperature comes from the run's own validation split alone, and a reliability plot shows before and after. Accuracy, F1, partial
    AUC, the Brier score and all intervals are in metrics.json.

    --perturb changes the cached crops at five severities, encodes them again with the backbone, and adds robustness.json and curves.
    Stopped, the same command goes on with the passes that are left.

    \b
    Examples:
      d2st eval runs/faces
      d2st eval runs/faces/stage2 --split val
      d2st eval runs/faces --cache celeb.d2st --cache dfdc.d2st --out results/cross
      d2st eval runs/faces --cache wild.d2st --manifest relabelled.parquet --out results/wild
      d2st eval runs/faces --protocol deepfakebench
      d2st eval runs/faces --perturb all --max-samples 400
      d2st eval runs/faces --json > metrics.json
    """
    from d2st.adapter.evaluate.digest import checkpoint_digest
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
    paths = cache or [training_cache(checkpoint)]
    stores = [open_matching(path, config=meta["config"], layers=meta["layers"]) for path in paths]
    out = out or evaluation_folder(checkpoint, split.value, cache or (), stores)
    about = {key: meta.get(key) for key in ("stage", "adapter", "epoch", "seed", "fingerprint", "shuffled_labels")}
    about["checkpoint"] = checkpoint_digest(checkpoint)
    about |= {"manifests": [path.name for path in manifest]} if manifest else {}
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
            validation=_validation(
                checkpoint, detector, {**meta, **about}, split=split, foreign=bool(cache), relabelled=bool(manifest)
            ),
            protocols=[protocol.value] if protocol else (),
            split=split.value,
            manifest=_read_manifests(manifest),
            device=device,
            trained_on=_trained_on(checkpoint),
            gap=True,
            about=about,
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


def _validation(
    checkpoint: Path, detector: "Detector", meta: dict[str, Any], *, split: Split, foreign: bool, relabelled: bool
) -> "pl.DataFrame | None":
    """Predictions of the run's own val split; None lets `evaluate_run` make them of the stores that it scores.

    Those that `eval --split val` kept serve if they are of this checkpoint. With other caches to score the run's own is opened for them,
    and where it is gone there are none: a temperature of other data's val split would not be the run's.
    """
    from d2st.adapter.evaluate.run import open_matching
    from d2st.adapter.evaluate.score import PREDICTIONS
    from d2st.adapter.evaluate.validation import kept_validation, score_validation
    from d2st.cache.errors import RunError, StoreError

    if (relabelled or split is Split.val) and not foreign:
        return None
    kept = kept_validation(checkpoint.parent / "eval-val", checkpoint=meta["checkpoint"])
    if kept is not None or not foreign:
        return kept
    try:
        store = open_matching(training_cache(checkpoint), config=meta["config"], layers=meta["layers"])
    except (RunError, StoreError):  # gone, or built anew with other options: told as the reason why there is no temperature
        return PREDICTIONS.to_frame()
    device = str(next(detector.parameters()).device)
    return score_validation(detector, [store], layers=meta["layers"], clip_frames=meta["clip_frames"], device=device)


def _trained_on(checkpoint: Path) -> set[str]:
    """Samples that this stage, and the stages that it started from, were trained on."""
    import polars as pl

    from d2st.adapter.evaluate.lineage import RECORD, lineage

    records = [pl.read_parquet(stage / RECORD) for stage in lineage(checkpoint.parent)[0]]
    return set().union(*(record.filter(pl.col("split") == "train")["sample_id"] for record in records))


def _read_manifests(paths: list[Path] | None) -> "pl.DataFrame | None":
    import polars as pl

    from d2st.pipeline.manifest import read_manifest

    return pl.concat([read_manifest(path) for path in paths]) if paths else None
