"""Options that the commands of `d2st runs` share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Json", "Runs"]

Runs = Annotated[Path, typer.Option(metavar="DIR", help="Where runs lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
