"""The root command: puts the command files together."""

import typer

from d2st.cli import (
    cache,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    manifest,
    predict,
    report,
    runs,
    sweep,
    train,
)

__all__ = ["app"]

HELP = """Cache frozen-CLIP token maps of face media once, then train deepfake-detection adapters from them in minutes.

\b
First look, no data needed:   d2st demo
Your own data:                d2st manifest scan ROOT --out faces.parquet
                              d2st cache build faces.parquet --cache faces.d2st
                              d2st train --cache faces.d2st --stage all
                              d2st eval runs/NAME
                              d2st report runs/NAME
                              d2st compare runs/NAME runs/OTHER
                              d2st predict VIDEO --run runs/NAME
                              d2st explain VIDEO --run runs/NAME
                              d2st export onnx runs/NAME --with-backbone
A better recipe:              d2st sweep space.toml --cache faces.d2st
                              d2st runs ls
"""

app = typer.Typer(
    name="d2st",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(manifest.app, name="manifest")
app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")
app.command(name="train")(train.train)
app.command(name="sweep")(sweep.sweep)
app.command(name="eval")(evaluate.evaluate)
app.command(name="compare")(compare.compare)
app.command(name="report")(report.report)
app.command(name="predict")(predict.predict)
app.command(name="explain")(explain.explain)
app.command(name="export")(export.export)
app.command(name="demo")(demo.demo)
app.command(name="doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True)) -> None:
    if version:
        from d2st import __version__

        typer.echo(__version__)
        raise typer.Exit
