"""`d2st cache`: plan, build, look at and look after a store of frozen-CLIP token maps. One file a command."""

import typer

from d2st.cli.cache.add_layers import add_layers
from d2st.cli.cache.build import build
from d2st.cli.cache.encode import encode
from d2st.cli.cache.gc import gc
from d2st.cli.cache.info import info
from d2st.cli.cache.plan import plan
from d2st.cli.cache.repair import repair
from d2st.cli.cache.verify import verify

__all__ = ["app"]

app = typer.Typer(help="Cache face crops and frozen-CLIP token maps in a store.", no_args_is_help=True, rich_markup_mode=None)
for command in (plan, build, add_layers, encode, info, verify, repair, gc):
    app.command(name=command.__name__.replace("_", "-"))(command)
