"""`d2st cache add-layers`: more layers for a set of token maps."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.cache.options import Device, Json
from d2st.cli.cache.work import ShardPart, parse_part, show_work

__all__ = ["add_layers"]


def add_layers(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    layers: Annotated[str, typer.Option(help="Layers to add: all, four, last, or block names and numbers, comma-separated.")],
    tokens: Annotated[str, typer.Option(help="The token set to add them to.")] = "main",
    pretrained: Annotated[
        str | None, typer.Option(help="Where the set's weights are [default: the tag that it was built with].")
    ] = None,
    device: Device = "auto",
    shard: ShardPart = None,
    as_json: Json = False,
) -> None:
    """Encode the crops of a store for more layers of the same backbone. Needs no media, and leaves what is there as it is.

    Stopped or killed, the same command goes on where it was; run several times at once, they share the work.

    \b
    Examples:
      d2st cache add-layers faces.d2st --layers 3,4
      d2st cache add-layers faces.d2st --layers -2 --tokens l14 --pretrained ViT-L-14.safetensors
    """
    from dataclasses import asdict

    from d2st.cli.progress import phases
    from d2st.cli.show import print_json, stdout
    from d2st.pipeline.build.reencode import add_layers as run_add_layers

    with phases({"crops": ("", ""), "tokens": ("encode with CLIP", "frames")}) as on_progress:
        report = run_add_layers(
            cache,
            layers,
            tokens=tokens,
            pretrained=pretrained,
            device=device,
            part=parse_part(shard),
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
        return
    show_work(report, stdout())
