"""Options that several commands of `d2st cache` share, and the front end that they describe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from d2st.pipeline.build.restore import FrontEnd

__all__ = [
    "Backbone",
    "CropSize",
    "DetectorName",
    "DetectorWeights",
    "Device",
    "Dtype",
    "FramesOption",
    "ImageSize",
    "Json",
    "Layers",
    "Manifest",
    "Margin",
    "MicroBatch",
    "Precision",
    "Pretrained",
    "Root",
    "Sampling",
    "Workers",
    "make_front_end",
]

Manifest = Annotated[Path, typer.Argument(help="Manifest from `d2st manifest scan`.", metavar="MANIFEST")]
Root = Annotated[Path | None, typer.Option(help="Folder the manifest's paths are relative to, if it has moved.")]
Backbone = Annotated[str, typer.Option(help="open_clip model, such as ViT-B-16-quickgelu or ViT-L-14-quickgelu.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", min=16, max=1024, metavar="PX", help="Input of the backbone, such as 384 [default: the model's own]."
    ),
]
Pretrained = Annotated[str, typer.Option(help="open_clip tag, a local weights file, or random:SEED.")]
Layers = Annotated[str, typer.Option(help="Layers to cache: last, four, all, or block names and numbers, comma-separated.")]
FramesOption = Annotated[int, typer.Option(min=1, max=384, help="Frames from each video.")]
Sampling = Annotated[str, typer.Option(help="even: spread over the video; clip: neighbouring frames from its middle.")]
CropSize = Annotated[
    int | None, typer.Option(min=16, max=1024, help="Side of a crop in px [default: the backbone's input size].")
]
Margin = Annotated[float, typer.Option(min=0.5, max=4.0, help="Side of the crop over that of the face template.")]
DetectorName = Annotated[str, typer.Option(help="mtcnn, yunet, or none for media that are face crops already.")]
DetectorWeights = Annotated[Path | None, typer.Option(help="The detector's ONNX file (yunet).")]
MicroBatch = Annotated[int, typer.Option(min=1, max=1024, help="Frames CLIP sees at once; part of the cache's fingerprint.")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16 [default: bf16 on CUDA, fp32 on the CPU].")]
Dtype = Annotated[str, typer.Option(help="How token maps are stored: float16, bfloat16, or int8 in half the bytes.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: one a core].")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def make_front_end(
    *,
    backbone: str,
    pretrained: str,
    layers: str,
    frames: int,
    sampling: str,
    crop_size: int | None,
    margin: float,
    detector: str,
    detector_weights: Path | None,
    micro_batch: int,
    precision: str | None,
    dtype: str,
    device: str,
    image_size: int | None = None,
) -> "FrontEnd":
    """Load what a build needs, from plain options. Raises ConfigError, UnknownNameError or WeightsError before any work starts."""
    from d2st.cache.device import pick_device
    from d2st.cache.errors import UsageError
    from d2st.pipeline.build.crop import CropSettings
    from d2st.pipeline.build.restore import FrontEnd
    from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers
    from d2st.pipeline.faces import build_detector

    if sampling not in ("even", "clip"):
        raise UsageError(f"--sampling {sampling} is not known", fix="Use even or clip")
    device = pick_device(device)
    faces = build_detector(detector, weights=detector_weights, device=device)
    loaded = load_backbone(backbone, pretrained, device=device, precision=precision, image_size=image_size)
    encoder = Encoder(loaded, resolve_layers(layers, loaded.depth), micro_batch=micro_batch, dtype=dtype)
    return FrontEnd(faces, CropSettings(frames, sampling, crop_size or loaded.image_size, margin), encoder)
