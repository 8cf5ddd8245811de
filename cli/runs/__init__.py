"""`d2st runs`: what lies in the runs folder, one run in full, several side by side, and the best. One file a command."""

import typer

from d2st.cli.runs.best import best
from d2st.cli.runs.compare import compare
from d2st.cli.runs.ls import ls
from d2st.cli.runs.show import show

__all__ = ["app"]

app = typer.Typer(help="Look through runs and sweeps.", no_args_is_help=True, rich_markup_mode=None)
for command in (ls, show, compare, best):
    app.command(name=command.__name__)(command)
