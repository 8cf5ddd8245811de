"""`d2st train`: one stage or all three, straight from the cache, with live progress on stderr."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.train_display import results_table, resume_command, show_training

if TYPE_CHECKING:
    from d2st.adapter.train import StageResult

__all__ = ["show_training", "train"]


class Stages(StrEnum):
    """What to train."""

    first = "1"
    second = "2"
    third = "3"
    every = "all"


class Preset(StrEnum):
    """How big the adapter is."""

    tiny = "tiny"
    base = "base"
    large = "large"


class Tracker(StrEnum):
    """Where curves go."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


def train(
    cache: Annotated[Path, typer.Option(metavar="STORE", help="The cache to train from.", show_default=False)],
    tokens: Annotated[str, typer.Option(metavar="NAME", help="Which of the cache's token sets (`d2st cache info`).")] = "main",
    stage: Annotated[
        Stages | None,
        typer.Option(
            help="1 single frames, 2 clips, 3 both in one feature space.  [default: the recipe's, or all]", show_default=False
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labels and splits to use.  [default: the cache's own]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run.  [default: date and time]", show_default=False)] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs lie.")] = Path("runs"),
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Another recipe: dfd-card, or a file of yours.", show_default=False)
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which adapter.  [default: the recipe's]", show_default=False)
    ] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Size of the adapter: width and depth.  [default: base]", show_default=False)
    ] = None,
    max_samples: Annotated[
        int | None,
        typer.Option(
            "--max-samples", metavar="N", min=0, help="Train on N samples at most.  [default: the recipe's]", show_default=False
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be repeated.", show_default=False),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Checkpoint to start from, or none.  [default: the newest stage before]", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run --name where it stopped.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Keep the token maps in GPU memory, or else in RAM, once they were read.")
    ] = False,
    track: Annotated[
        list[Tracker] | None,
        typer.Option(help="Curves to an experiment tracker too (an extra: d2st[wandb]); may be repeated.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: the recipe's]", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON document on stdout.")] = False,
) -> None:
    """Train a deepfake detector from cached token maps.

    Stage 1 learns spatial traces from single frames, stage 2 temporal ones from clips, stage 3 brings images and videos into one
    feature space. Each starts from the best checkpoint of the one before. The best epoch is chosen by validation AUC alone; the test
    split is never read. Everything lands in runs/NAME/stageN. Ctrl-C saves, and --resume goes on to the very same weights. With
    torchrun several processes share every batch, each on a GPU of its own.

    \b
    Examples:
      d2st train --cache faces.d2st
      d2st train --cache faces.d2st --stage 1 --name faces --set optim.epochs=5
      d2st train --cache faces.d2st --stage 2 --name faces
      d2st train --cache faces.d2st --stage all --name faces --resume
      d2st train --cache faces.d2st --stage 1 --adapter linear_probe
      d2st train --cache faces.d2st --stage 1 --preset tiny --max-samples 10000
      d2st train --cache faces.d2st --recipe dfd-card
      d2st train --cache faces.d2st --in-memory
      torchrun --nproc-per-node 4 -m d2st train --cache faces.d2st
      d2st train --cache faces.d2st --track tensorboard
      d2st train --cache faces.d2st --stage all --set stage2.data.frames=8 --set adapter.params.width=64
      d2st train --cache faces.d2st --stage 2 --init none --set data.shuffle_labels=true
    """
    from d2st.adapter.train import run_training
    from d2st.adapter.train.exchange import alike
    from d2st.adapter.train.log import gap_line
    from d2st.adapter.train.ranks import joined
    from d2st.cache.store import Store
    from d2st.cli.show import print_json, stderr, stdout
    from d2st.pipeline.manifest import read_manifest

    run: dict[str, Any] = {}
    with joined() as ranks, show_training(quiet=not ranks.first) as show:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "run":
                run.update(event)
            show(event)
            if event["event"] == "run" and nothing_there:
                show({"event": "note", "message": f"there is no {runs / event['name']} to go on with, so this is a new run"})

        nothing_there = resume and name is not None and not (runs / name).exists()
        with alike(ranks):
            store = Store.open(cache, tokens=tokens)
            labels = read_manifest(manifest) if manifest else None
        try:
            results = run_training(
                store,
                stages=_numbers(stage),
                runs=runs,
                name=name,
                recipe=recipe,
                adapter=adapter,
                preset=preset.value if preset else None,
                max_samples=max_samples,
                overrides=overrides or (),
                init=init,
                resume=resume,
                device=device,
                seed=seed,
                manifest=labels,
                in_memory=in_memory,
                track=[tracker.value for tracker in track or ()],
                on_event=on_event,
            )
        except KeyboardInterrupt:
            if run:
                asked = {"cache": cache, "tokens": None if tokens == "main" else tokens, "stage": stage, "manifest": manifest}
                asked |= {"recipe": recipe, "adapter": adapter, "preset": preset, "max-samples": max_samples, "set": overrides}
                asked |= {"init": init, "device": None if device == "auto" else device, "seed": seed, "track": track}
                again = resume_command(asked | {"runs": runs, "name": run["name"]}, ranks=ranks.size, in_memory=in_memory)
                stderr().print(f"stopped; to go on from here: {again}", markup=False, soft_wrap=True)
            raise
    if not ranks.first:
        return
    following = shlex.join(["d2st", "eval", run["folder"], "--cache", str(cache)])
    following += f" --manifest {shlex.quote(str(manifest))}" if manifest else ""
    if as_json:
        print_json({"run": run["folder"], "stages": [_as_json(result) for result in results], "next": following})
        return
    console = stdout()
    console.print(results_table(run["folder"], results))
    for result in results:
        if result.gap:
            console.print(gap_line(result.gap["before"], result.gap["after"]), markup=False, soft_wrap=True)
    console.print(f"next: {following}", markup=False, soft_wrap=True)


def _numbers(stage: Stages | None) -> tuple[int, ...] | None:
    if stage is None:
        return None
    return (1, 2, 3) if stage is Stages.every else (int(stage.value),)


def _as_json(result: "StageResult") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(result), "best": str(result.best)}
