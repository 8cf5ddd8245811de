"""`d2st manifest`: find media, look at what was found, and check it before anything slow runs. One file a command."""

import typer

from d2st.cli.manifest.check import check
from d2st.cli.manifest.export import export
from d2st.cli.manifest.merge import merge
from d2st.cli.manifest.scan import scan
from d2st.cli.manifest.show import show
from d2st.cli.manifest.split import split

__all__ = ["app"]

app = typer.Typer(
    help="Scan media into a manifest (one row a sample), look at it, and check it for leaks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (scan, show, check, split, merge, export):
    app.command()(command)
