"""`d2st cache repair`: make what is damaged anew, and nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.cache.options import DetectorWeights, Device, Json, Root, Workers

if TYPE_CHECKING:
    from d2st.pipeline.build.repair import RepairReport

__all__ = ["repair"]

ROWS_SHOWN = 40


def repair(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    root: Root = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Where CLIP's weights are [default: the tag that the store was built with].")
    ] = None,
    detector_weights: DetectorWeights = None,
    deep: Annotated[bool, typer.Option("--deep/--no-deep", help="Read every byte to find damage.")] = True,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find damage as `verify` does and mend it: metadata and plan from the ledger, crops from the media, token maps from the crops.

    What is whole stays as it is, byte for byte. Exits with 1 if something is left.

    \b
    Examples:
      d2st cache repair faces.d2st
      d2st cache repair faces.d2st --root /data/faces
      d2st cache repair faces.d2st --pretrained ViT-B-16.safetensors --no-deep
    """
    from dataclasses import asdict

    from d2st.cache.device import pick_device
    from d2st.cli.progress import phases
    from d2st.cli.show import print_json
    from d2st.pipeline.build.remake import Sources
    from d2st.pipeline.build.repair import repair as run_repair

    labels = {
        "verify": ("look for damage", "shards"),
        "crops": ("crop again", "shards"),
        "tokens": ("encode with CLIP again", "frames"),
    }
    sources = Sources(root, pretrained, detector_weights, pick_device(device), workers)
    with phases(labels, quiet=as_json) as on_progress:
        report = run_repair(cache, sources=sources, deep=deep, on_progress=on_progress)
    if as_json:
        print_json({**asdict(report), "whole": not report.left})
    else:
        _show(report, cache)
    if report.left:
        raise typer.Exit(1)


def _show(report: "RepairReport", cache: Path) -> None:
    from d2st.cache.verify import KINDS
    from d2st.cli.show import human_time, stdout, table

    console = stdout()
    if not report.found:
        console.print(f"{cache} is whole: nothing to do ({human_time(report.seconds)})", markup=False)
        return
    console.print(
        f"{len(report.mended)} files mended in {human_time(report.seconds)}: {report.crops} shards of crops and "
        f"{report.tokens} of token maps made anew, statistics of {report.statistics} shards computed anew",
        soft_wrap=True,
    )
    if not report.left:
        console.print(f"{cache} is whole again", markup=False)
        return
    rows = [(damage.file, KINDS[damage.kind], why) for damage, why in report.left[:ROWS_SHOWN]]
    console.print(table(f"{len(report.left)} damages are left", ("file", "what is wrong", "why it could not be mended"), rows))
