"""`d2st manifest split`."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.manifest.options import Json, Manifest, counts_table, say_errors
from d2st.cli.show import print_json, stderr, stdout

__all__ = ["split"]


def split(
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option(help="Where to write.  [default: over MANIFEST]", show_default=False)] = None,
    shares: Annotated[
        str, typer.Option(metavar="A,B,C", help="Shares of train, val and test; 0 leaves one empty.")
    ] = "70,15,15",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help="Leave this split as it is; its people are drawn into it. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other splits.")] = 1,
    as_json: Json = False,
) -> None:
    """Split MANIFEST anew by identity: who shares a person, a source, a video or bytes stays together, so nothing leaks.

    Real, fake and mixed groups are dealt out separately, so that small sets get both labels in every split.

    \b
    Examples:
      d2st manifest split faces.parquet
      d2st manifest split faces.parquet --shares 80,20,0 --keep test
      d2st manifest split faces.parquet --seed 2 --out faces-2.parquet
    """
    from d2st.pipeline.manifest import SPLITS, counts, manifest_root, read_manifest, write_manifest
    from d2st.pipeline.manifest.resplit import resplit

    try:
        given = dict(zip(SPLITS, (float(part) for part in shares.split(",")), strict=True))
    except ValueError as error:
        raise typer.BadParameter(f"{shares!r} is not three numbers, such as 70,15,15", param_hint="--shares") from error
    rows = read_manifest(manifest)
    filled = {name: share for name, share in given.items() if share and name not in (keep or ())}
    made = resplit(rows, shares=filled, seed=seed, keep=keep or ())
    out = out or manifest
    write_manifest(made, out, root=manifest_root(manifest))
    if as_json:
        print_json({"manifest": str(out), "counts": counts(made).to_dicts(), "errors": say_errors(made)})
    else:
        stdout().print(counts_table(f"{out}: {made.height} samples", made))
        say_errors(made)
    for split in sorted(set(filled) - set(made["split"].cast(str))):
        words = "got no sample: too few groups of people, sources, videos and copies that must stay together"
        stderr().print(f"warning: {split} {words}", style="yellow", markup=False, soft_wrap=True)
