"""`d2st cache encode`: another set of token maps from the crops of a store."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.cache.options import Device, ImageSize, Json
from d2st.cli.cache.work import ShardPart, parse_part, show_work

if TYPE_CHECKING:
    from d2st.pipeline.clip import Encoder

__all__ = ["encode"]


def encode(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    name: Annotated[str, typer.Option("--as", help="Name of the new token set, for --tokens of the other commands.")],
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help="Encode a view: flip (mirrored), or brightness=R (times 1-R to 1+R, one factor a sample); may be repeated.",
            show_default=False,
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="open_clip model [default: ViT-B-16-quickgelu].")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="open_clip tag, a local weights file, or random:SEED [default: openai].")
    ] = None,
    image_size: ImageSize = None,
    layers: Annotated[
        str | None, typer.Option(help="last, four, all, or block names and numbers, comma-separated [default: four].")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Frames CLIP sees at once [default: 16].")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 [default: bf16 on CUDA, fp32 on the CPU].")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or int8 [default: float16].")] = None,
    device: Device = "auto",
    shard: ShardPart = None,
    as_json: Json = False,
) -> None:
    """Encode the crops of a store once more, into a token set beside the first: another backbone or dtype, or a view. Needs no media.

    A view is encoded as the main set was, but for what is given here (by the defaults below with a --backbone of its own), so that
    training can draw from both (data.views); an int8 one takes the main set's calibration. Validation and scoring see no view.

    Stopped or killed, the same command goes on where it was; run several times at once, they share the work.

    \b
    Examples:
      d2st cache encode faces.d2st --as l14 --backbone ViT-L-14-quickgelu --layers last
      d2st cache encode faces.d2st --as small --dtype int8
      d2st cache encode faces.d2st --as flip --view flip
      d2st cache encode faces.d2st --as flip-bright --view flip --view brightness=0.2
    """
    from dataclasses import asdict

    from d2st.cli.progress import phases
    from d2st.cli.show import print_json, stdout
    from d2st.pipeline.build.reencode import encode_set
    from d2st.pipeline.build.views import parse_view

    part, seen = parse_part(shard), parse_view(view or (), name=name)
    encoder = _encoder(
        cache,
        name if seen else None,
        backbone=backbone,
        pretrained=pretrained,
        layers=layers,
        device=device,
        image_size=image_size,
        precision=precision,
        micro_batch=micro_batch,
        dtype=dtype,
    )
    with phases({"crops": ("", ""), "tokens": ("encode with CLIP", "frames")}) as on_progress:
        report = encode_set(cache, name, encoder, view=seen, part=part, on_progress=on_progress)
    if as_json:
        print_json(asdict(report))
        return
    console = stdout()
    show_work(report, console)
    following = f"--tokens {name}" if seen is None else f"""--set 'data.views=["main", "{name}"]'"""
    console.print(f"next: d2st train --cache {shlex.quote(str(cache))} --stage all {following}", markup=False, soft_wrap=True)


def _encoder(
    cache: Path,
    view: str | None,
    *,
    backbone: str | None,
    pretrained: str | None,
    layers: str | None,
    device: str,
    image_size: int | None,
    precision: str | None,
    micro_batch: int | None,
    dtype: str | None,
) -> "Encoder":
    """The main set's encoder with these changes for the view of this name, without a backbone of its own; else one of these options."""
    from d2st.cache.device import pick_device
    from d2st.pipeline.build.encoders import view_encoder
    from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers

    device = pick_device(device)
    if view is not None and backbone is None:
        changes = {"image_size": image_size, "precision": precision, "micro_batch": micro_batch, "dtype": dtype}
        return view_encoder(cache, view, layers=layers, pretrained=pretrained, device=device, **changes)
    loaded = load_backbone(
        backbone or "ViT-B-16-quickgelu", pretrained or "openai", device=device, precision=precision, image_size=image_size
    )
    names = resolve_layers(layers or "four", loaded.depth)
    return Encoder(loaded, names, micro_batch=micro_batch or 16, dtype=dtype or "float16")
