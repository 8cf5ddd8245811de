"""`d2st cache`: plan, build, look at and look after a store of frozen-CLIP token maps. One file a command."""

import typer

from d2st.cli.cache.build import build
from d2st.cli.cache.info import info
from d2st.cli.cache.plan import plan

__all__ = ["app"]

app = typer.Typer(help="Cache face crops and frozen-CLIP token maps in a store.", no_args_is_help=True, rich_markup_mode=None)
for command in (plan, build, info):
    app.command(name=command.__name__.replace("_", "-"))(command)
