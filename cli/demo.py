"""`d2st demo`: the whole way on a synthetic corpus, with the very code that the commands run; nothing is downloaded.

Every step prints the command that would do the same. A second run finds what is there: files, shards, finished stages.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from d2st.cache.store import Store
    from d2st.detection import Prediction

__all__ = ["demo"]

BACKBONE, PRETRAINED, LAYERS, FRAMES = "d2st-demo", "random:0", "0,5", 12
IDENTITY = r"id(\d+)"
RUN, PROBE, CONTROL = "demo", "linear-probe", "shuffled-labels"
# the recipes are meant for a thousand times as many samples: this few want more epochs at a higher rate
OVERRIDES = (
    "stage1.optim.epochs=25",
    "stage1.optim.lr=3e-3",
    "stage1.optim.patience=25",
    "stage2.optim.epochs=12",
    "stage2.optim.lr=1e-3",
    "stage2.optim.batch_size=8",
    "stage2.optim.patience=12",
    "stage3.optim.batch_size=8",
    "stage3.optim.patience=6",
)

HELP = """Make synthetic talking faces, cache them, train all three stages, and report honest scores. Takes minutes on a laptop.

It runs without a download, a data set or a GPU, through the same code as your own commands, and prints each of them.
The backbone has random weights and the faces are drawn: the figures show that the machinery works, not how well it finds deepfakes.

\b
Examples:
    d2st demo
    d2st demo --dir /tmp/d2st-demo --seed 1
    d2st demo --json > demo.json
"""


@dataclass(frozen=True)
class _Column:
    """One trained model of the closing table."""

    title: str
    run: str
    stage: int


COLUMNS = (
    _Column("stage 1", RUN, 1),
    _Column("stage 2", RUN, 2),
    _Column("stage 3", RUN, 3),
    _Column("linear probe", PROBE, 1),
    _Column("shuffled labels", CONTROL, 1),
)


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything goes.")] = Path("d2st-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the corpus and of the training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    from d2st.cache.device import pick_device
    from d2st.cli.show import print_json, stderr

    console = stderr()
    device = pick_device(device)
    begin = perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    _corpus(folder, seed, console, seconds)
    store = _cache(folder, device, console, seconds)
    _train(folder, store, seed, device, console, seconds)
    summaries = _evaluate(folder, store, device, console, seconds)
    predictions = _predict(folder, seed, device, console, seconds)
    seconds["total"] = perf_counter() - begin
    if as_json:
        from dataclasses import asdict

        found = [asdict(prediction) for prediction in predictions]
        print_json({"seconds": seconds, "test": summaries, "gap": _gaps(folder, summaries), "predictions": found})
    else:
        _summary(folder, summaries, predictions, seconds)


demo.__doc__ = HELP


def _step(console: "Console", title: str, command: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    console.print(f"$ {command}", style="dim", markup=False, soft_wrap=True)


def _corpus(folder: Path, seed: int, console: "Console", seconds: dict[str, float]) -> None:
    from d2st.cli.progress import phases
    from d2st.pipeline.corpus import make_corpus
    from d2st.pipeline.manifest import scan_folder, write_manifest

    begin = perf_counter()
    console.print("\n[bold]1/6  make synthetic talking faces, real and manipulated[/bold]")
    with phases({"corpus": ("draw and encode", "files")}) as on_progress:
        made = make_corpus(folder / "corpus", seed=seed, on_progress=lambda done, total: on_progress("corpus", done, total))
    reused = ", all there already" if made.was_complete else f", {made.reused} of them there already" if made.reused else ""
    console.print(f"{made.files} files of {made.identities} identities{reused}: {made.root}", soft_wrap=True)
    seconds["corpus"] = perf_counter() - begin

    manifest = folder / "faces.parquet"
    _step(console, "2/6  scan them into a manifest", f"d2st manifest scan {made.root} --identity '{IDENTITY}' --out {manifest}")
    found = scan_folder(made.root, dataset="demo", identity=IDENTITY)
    write_manifest(found.manifest, manifest, root=made.root)
    console.print(f"{found.manifest.height} samples, {found.manifest['identity'].explode().n_unique()} identities")


def _cache(folder: Path, device: str, console: "Console", seconds: dict[str, float]) -> "Store":
    from d2st.cache.store import Store
    from d2st.cli.cache.options import make_front_end
    from d2st.cli.progress import phases
    from d2st.cli.show import human_bytes, human_time
    from d2st.pipeline.build.estimate import estimate
    from d2st.pipeline.build.run import build
    from d2st.pipeline.manifest import manifest_root, read_manifest

    begin = perf_counter()
    manifest, path = folder / "faces.parquet", folder / "faces.d2st"
    options = f"--backbone {BACKBONE} --pretrained {PRETRAINED} --layers {LAYERS} --frames {FRAMES}"
    rows, root = read_manifest(manifest), manifest_root(manifest)
    front = make_front_end(
        backbone=BACKBONE,
        pretrained=PRETRAINED,
        layers=LAYERS,
        frames=FRAMES,
        sampling="even",
        crop_size=None,
        margin=1.3,
        detector="mtcnn",
        detector_weights=None,
        micro_batch=16,
        precision=None,
        dtype="float16",
        device=device,
    )
    pieces = {"detector": front.detector, "settings": front.settings, "encoder": front.encoder}
    if not path.exists():
        _step(console, "3/6  ask what the cache will take", f"d2st cache plan {manifest} {options}")
        cost = estimate(rows, root=root, **pieces)
        size = human_bytes(cost.crop_bytes + cost.token_bytes)
        console.print(f"{cost.frames} frames, {size}, about {human_time(cost.seconds)}")
    _step(console, "3/6  decode, crop and encode everything once", f"d2st cache build {manifest} --cache {path} {options}")
    with phases({"crops": ("decode, find faces, crop", "samples"), "tokens": ("encode with CLIP", "frames")}) as on_progress:
        report = build(rows, path, root=root, on_progress=on_progress, **pieces)
    left_out = sum(report.rejected.values())
    reused = "" if report.built_crops or report.built_tokens else ", all cached already"
    console.print(f"{report.samples} samples, {report.frames} frames, {left_out} left out{reused}")
    seconds["cache"] = perf_counter() - begin
    return Store.open(path)


def _train(folder: Path, store: "Store", seed: int, device: str, console: "Console", seconds: dict[str, float]) -> None:
    from d2st.adapter.train import run_training
    from d2st.cli.train import show_training

    runs, cache = folder / "runs", f"--cache {store.path} --runs {folder / 'runs'}"
    cache += f" --seed {seed}" if seed else ""
    sets = _sets(OVERRIDES)
    _step(console, "4/6  train the three stages from the cache", f"d2st train {cache} --stage all --name {RUN} {sets}")
    common: dict[str, Any] = {"runs": runs, "device": device, "seed": seed, "resume": True}
    begin = perf_counter()
    with show_training() as on_event:
        run_training(store, name=RUN, overrides=OVERRIDES, on_event=on_event, **common)
    seconds["train"] = perf_counter() - begin

    begin = perf_counter()
    probe = ("optim.epochs=40", "optim.lr=5e-3", "optim.patience=10")
    _step(
        console,
        "     two controls: a linear probe on CLS, and labels shuffled",
        f"d2st train {cache} --stage 1 --adapter linear_probe --name {PROBE} {_sets(probe)}",
    )
    with show_training() as on_event:
        run_training(store, stages=(1,), name=PROBE, adapter="linear_probe", overrides=probe, on_event=on_event, **common)
    # the very training that made stage 1's column, on labels that mean nothing
    control = ("data.shuffle_labels=true", *(item for item in OVERRIDES if not item.startswith(("stage2.", "stage3."))))
    shuffled = f"d2st train {cache} --stage 1 --name {CONTROL} {_sets(control)}"
    console.print(f"$ {shuffled}", style="dim", markup=False, soft_wrap=True)
    with show_training() as on_event:
        run_training(store, stages=(1,), name=CONTROL, overrides=control, on_event=on_event, **common)
    seconds["controls"] = perf_counter() - begin


def _sets(overrides: Iterable[str]) -> str:
    return " ".join(f"--set {item}" for item in overrides)


def _evaluate(
    folder: Path, store: "Store", device: str, console: "Console", seconds: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Summary of the test split for each column of the closing table."""
    from d2st.adapter.evaluate.run import evaluate_run
    from d2st.adapter.train import load_detector

    begin = perf_counter()
    _step(console, "5/6  score the test split, which no training has seen", f"d2st eval {folder / 'runs' / RUN}")
    summaries = {}
    for column in COLUMNS:
        stage = folder / "runs" / column.run / f"stage{column.stage}"
        network, meta = load_detector(stage, device=device)
        summaries[column.title] = evaluate_run(
            network,
            [store],
            layers=meta["layers"],
            clip_frames=meta["clip_frames"],
            out_dir=stage / "eval-test",
            title=f"demo, {column.title}: test split",
            device=device,
            gap=column.run == RUN and column.stage > 1,
        )
    seconds["eval"] = perf_counter() - begin
    return summaries


def _predict(folder: Path, seed: int, device: str, console: "Console", seconds: dict[str, float]) -> "list[Prediction]":
    """Two clips that no split holds: one take as it was filmed, and with its face swapped."""
    from d2st.detection import Detector
    from d2st.pipeline.corpus import unseen_clips

    begin = perf_counter()
    files = unseen_clips(folder / "unseen", seed=seed)
    run = folder / "runs" / RUN
    _step(console, "6/6  score two files that nothing above has seen", f"d2st predict {' '.join(map(str, files))} --run {run}")
    detector = Detector.load(run, device=device)
    predictions = [detector.predict(file) for file in files]
    seconds["predict"] = perf_counter() - begin
    return predictions


def _summary(
    folder: Path, summaries: dict[str, dict[str, Any]], predictions: "list[Prediction]", seconds: dict[str, float]
) -> None:
    from d2st.adapter.train.log import gap_line
    from d2st.cli.show import human_time, stdout, table
    from d2st.pipeline.corpus import UNSEEN_METHODS

    console = stdout()
    titles = [column.title for column in COLUMNS]
    rows = []
    kinds = summaries[titles[0]]["kinds"]
    for kind in kinds:
        rows.append([f"all {kind}s", "", *(_auc(summaries[title]["kinds"][kind]["video"], interval=True) for title in titles)])
    for kind in kinds:
        for method in summaries[titles[0]]["methods"]["demo"][kind]:
            seen = "unseen" if method in UNSEEN_METHODS else "seen"
            cells = [_auc(summaries[title]["methods"]["demo"][kind][method]["video"]) for title in titles]
            rows.append([f"{kind}: {method}", seen, *cells])
    console.print()
    console.print(table("Test AUC (95 % interval)", ["manipulation", "in training", *titles], rows, right=titles))
    console.print(
        "Columns: the three stages; a linear probe on the pooled last-layer CLS of the same cache; stage 1 on shuffled labels."
    )
    for split, found in _gaps(folder, summaries).items():
        line = f"{split}, before and after stage 3: {gap_line(found['before'], found['after'])}"
        console.print(line, markup=False, soft_wrap=True)
    scores = ", ".join(f"{Path(f.path).name} {f.probability:.2f} ({'fake' if f.fake else 'real'})" for f in predictions)
    spent = ", ".join(f"{name} {human_time(value)}" for name, value in seconds.items())
    run = folder / "runs" / RUN
    for line in (
        f"P(fake) of files that nothing has seen: {scores}",
        f"run: {run}",
        f"plots and predictions: {run}/stage3/eval-test",
        f"time: {spent}",
        "The backbone has seeded random weights and the faces are synthetic: these figures show that the machinery works, "
        "not how well it detects deepfakes.",
        "next, with your own media: d2st manifest scan ROOT",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _gaps(folder: Path, summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The modality gap before and after stage 3: on the validation split as the stage measured it, and on the test split."""
    from d2st.adapter.train import rundir

    kept = rundir.read_json(folder / "runs" / RUN / "stage3" / rundir.RESULT).get("gap")
    gaps = {"validation": kept} if kept else {}
    return gaps | {"test": {"before": summaries["stage 2"]["gap"], "after": summaries["stage 3"]["gap"]}}


def _auc(level: dict[str, Any], *, interval: bool = False) -> str:
    if level["auc"] is None:
        return "-"
    bounds = level["intervals"].get("auc") if interval else None
    return f"{level['auc']:.3f}" + (f" ({bounds[0]:.2f}-{bounds[1]:.2f})" if bounds else "")
