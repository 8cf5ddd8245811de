"""`d2st manifest merge`."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.manifest.options import Json, counts_table, say_errors
from d2st.cli.show import print_json, stdout

__all__ = ["merge"]


def merge(
    manifests: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Two or more.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where to write.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Put several manifests into one, whose paths start from the nearest folder above all of their media.

    Samples keep their ids, so what is cached of them stays valid.

    \b
    Examples:
      d2st manifest merge ffpp.parquet celeb.parquet dfdc.parquet --out all.parquet
    """
    from d2st.pipeline.manifest import counts, manifest_root, read_manifest, write_manifest
    from d2st.pipeline.manifest.merge import common_root
    from d2st.pipeline.manifest.merge import merge as merge_rows

    if len(manifests) < 2:
        raise typer.BadParameter("name two manifests or more", param_hint="MANIFEST")
    parts = [(read_manifest(path), manifest_root(path)) for path in manifests]
    root = common_root([media for _, media in parts])
    made = merge_rows(parts, root=root)
    write_manifest(made, out, root=root)
    if as_json:
        print_json({"manifest": str(out), "counts": counts(made).to_dicts(), "errors": say_errors(made)})
        return
    stdout().print(counts_table(f"{out}: {made.height} samples", made))
    say_errors(made)
