"""`d2st cache encode`: another set of token maps from the crops of a store."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.cache.options import Backbone, Device, Dtype, Json, Layers, MicroBatch, Precision, Pretrained
from d2st.cli.cache.work import ShardPart, parse_part, show_work

__all__ = ["encode"]


def encode(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    name: Annotated[str, typer.Option("--as", help="Name of the new token set, for --tokens of the other commands.")],
    backbone: Backbone = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    layers: Layers = "four",
    micro_batch: MicroBatch = 16,
    precision: Precision = None,
    dtype: Dtype = "float16",
    device: Device = "auto",
    shard: ShardPart = None,
    as_json: Json = False,
) -> None:
    """Encode the crops of a store once more, with another backbone or dtype, into a token set beside the first. Needs no media.

    Stopped or killed, the same command goes on where it was; run several times at once, they share the work.

    \b
    Examples:
      d2st cache encode faces.d2st --as l14 --backbone ViT-L-14-quickgelu --layers last
      d2st cache encode faces.d2st --as small --dtype int8
    """
    from dataclasses import asdict

    from d2st.cache.device import pick_device
    from d2st.cli.progress import phases
    from d2st.cli.show import print_json, stdout
    from d2st.pipeline.build.reencode import encode_set
    from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers

    part = parse_part(shard)
    loaded = load_backbone(backbone, pretrained, device=pick_device(device), precision=precision)
    encoder = Encoder(loaded, resolve_layers(layers, loaded.depth), micro_batch=micro_batch, dtype=dtype)
    with phases({"crops": ("", ""), "tokens": ("encode with CLIP", "frames")}) as on_progress:
        report = encode_set(cache, name, encoder, part=part, on_progress=on_progress)
    if as_json:
        print_json(asdict(report))
        return
    console = stdout()
    show_work(report, console)
    console.print(f"next: d2st train --cache {cache} --tokens {name} --stage all", soft_wrap=True)
