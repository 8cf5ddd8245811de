"""`d2st sweep`: search a recipe's best values with many trials at once, and say how much of the winner's lead is noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.sweep_board import STATES, drawn_text
from d2st.cli.sweep_display import show_sweep

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["finalists_table", "sweep"]


def sweep(
    space: Annotated[Path, typer.Argument(metavar="SPACE.toml", help="What to search: see below.")],
    cache: Annotated[Path, typer.Option(metavar="STORE", help="The cache to train from.", show_default=False)],
    tokens: Annotated[str, typer.Option(metavar="NAME", help="Which of the cache's token sets (`d2st cache info`).")] = "main",
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labels and splits to use.  [default: the cache's own]")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Trials of the whole sweep, whoever runs them.  [default: 64, or the grid]"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="Further seeds for the best three; 0 is off.  [default: 3]", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep.  [default: date and time]", show_default=False)] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where runs lie.")] = Path("runs"),
    init: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Checkpoint that all trials start from, or none.", show_default=False),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once",
            min=1,
            metavar="N",
            help="Trials at once.  [default: as many as fit; of tpe's a quarter]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Keep the token maps in GPU memory, or else in RAM, once they were read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document on stdout.")] = False,
) -> None:
    """Search for a better recipe: many trials share one pass over the cache.

    SPACE.toml names a recipe and what to vary in it, by the keys that `d2st train --set` takes: a list of values, or a range.

    \b
      stage = 2                        # or recipe = "mine.toml"
      start = "scratch"                # "previous" needs --init
      [set]                            # the same for all trials
      optim.epochs = 6
      [sweep]
      optim.lr = { low = 1e-4, high = 1e-2, log = true }
      adapter.name = ["d2st", "meanpool_mlp"]
      adapter.layers = [["block_5"], "all"]
      data.frames = [4, 8, 12]
      [search]
      sampler = "tpe"                  # tpe, random, grid
      pruner = "asha"                  # asha, hyperband, none

    Trials are judged by validation AUC alone; the test split is never read. The best three are then trained with new seeds: the winner
    has the best mean, and how much of its lead is noise is said. Each trial is an ordinary run, which gives what `d2st train` with its
    recipe gives. The same command goes on where a sweep was stopped; started once more, on another GPU (--device cuda:1) or on a machine
    that sees the same folders, it joins. Needs Optuna: pip install "d2st[sweep]".

    \b
    Examples:
      d2st sweep space.toml --cache faces.d2st --trials 64 --name first-sweep
      d2st sweep space.toml --cache faces.d2st --name first-sweep
      d2st sweep space.toml --cache faces.d2st --init runs/faces/stage1 --in-memory
      d2st runs show first-sweep
      d2st train --cache faces.d2st --recipe runs/first-sweep/best.toml
    """
    from d2st.adapter.sweep.study import refuse_without_optuna

    refuse_without_optuna()
    from d2st.adapter.sweep.run import run_sweep
    from d2st.adapter.sweep.winner import noise_lines
    from d2st.cache.store import Store
    from d2st.cli.show import print_json, stderr, stdout
    from d2st.pipeline.manifest import read_manifest

    known: dict[str, Any] = {}
    data = (
        f"--cache {cache}"
        + (f" --tokens {tokens}" if tokens != "main" else "")
        + (f" --manifest {manifest}" if manifest else "")
    )
    start = f" --init {init}" if init else ""
    try:
        with show_sweep() as show:

            def on_event(event: dict[str, Any]) -> None:
                if event["event"] == "sweep":
                    known.update(event)
                show(event)

            outcome = run_sweep(
                Store.open(cache, tokens=tokens),
                space,
                runs=runs,
                name=name,
                trials=trials,
                seeds=seeds,
                init=init,
                device=device,
                at_once=at_once,
                in_memory=in_memory,
                manifest=read_manifest(manifest) if manifest else None,
                on_event=on_event,
            )
    except KeyboardInterrupt:
        if known:
            chosen = (f" --at-once {at_once}" if at_once else "") + (" --in-memory" if in_memory else "")
            again = f"d2st sweep {space} {data}{start}{chosen} --runs {runs} --name {known['name']}"
            stderr().print(f"stopped; to go on from here: {again}", markup=False, soft_wrap=True)
        raise
    folder = outcome["folder"]
    following = f"d2st train {data} --recipe {folder}/best.toml{start}"
    if as_json:
        print_json({**outcome, "recipe": f"{folder}/best.toml", "next": following})
        return
    console = stdout()
    console.print(finalists_table(outcome))
    for line in noise_lines(outcome):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    console.print(f"pictures: {folder}/plots; all trials: {folder}/sweep.parquet", markup=False, soft_wrap=True)
    console.print(f"next: {following}", markup=False, soft_wrap=True)


def finalists_table(outcome: dict[str, Any]) -> "Table":
    """The best trials, the winner first: the score that each was picked for, and what new seeds gave."""
    from d2st.cli.show import table

    counts = outcome["trials"]
    title = f"sweep {outcome['sweep']}: " + ", ".join(f"{count} {STATES[state]}" for state, count in counts.items() if count)
    rows = []
    for row in outcome["finalists"]:
        values = row["values"].values()
        spread = "" if row["mean"] is None else f"{row['mean']:.4f}" + ("" if row["sd"] is None else f" ± {row['sd']:.4f}")
        seeds = " ".join("failed" if value is None else f"{value:.3f}" for value in values)
        rows.append((row["trial"], f"{row['first']:.4f}", spread, seeds, drawn_text(row["drawn"])))
    columns = ("trial", "picked at", "new seeds", "each", "drawn")
    return table(title, columns, rows, right=("trial", "picked at", "new seeds"))
