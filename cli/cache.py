"""`d2st cache`: plan, build and look at a store of frozen-CLIP token maps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from d2st.pipeline.build.restore import FrontEnd
    from d2st.pipeline.build.run import BuildReport

__all__ = ["app", "make_front_end", "show_report"]

app = typer.Typer(help="Cache face crops and frozen-CLIP token maps in a store.", no_args_is_help=True, rich_markup_mode=None)

Manifest = Annotated[Path, typer.Argument(help="Manifest from `d2st manifest scan`.", metavar="MANIFEST")]
Root = Annotated[Path | None, typer.Option(help="Folder the manifest's paths are relative to, if it has moved.")]
Backbone = Annotated[str, typer.Option(help="open_clip model, such as ViT-B-16-quickgelu or ViT-L-14-quickgelu.")]
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
Dtype = Annotated[str, typer.Option(help="How token maps are stored: float16 or bfloat16.")]
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
) -> "FrontEnd":
    """Load what a build needs, from plain options. Raises ConfigError, UnknownNameError or WeightsError before any work starts."""
    from d2st.cache.device import pick_device
    from d2st.cache.errors import ConfigError
    from d2st.pipeline.build.crop import CropSettings
    from d2st.pipeline.build.restore import FrontEnd
    from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers
    from d2st.pipeline.faces import build_detector

    if sampling not in ("even", "clip"):
        raise ConfigError(f"--sampling {sampling} is not known", fix="Use even or clip")
    device = pick_device(device)
    faces = build_detector(detector, weights=detector_weights, device=device)
    loaded = load_backbone(backbone, pretrained, device=device, precision=precision)
    encoder = Encoder(loaded, resolve_layers(layers, loaded.depth), micro_batch=micro_batch, dtype=dtype)
    return FrontEnd(faces, CropSettings(frames, sampling, crop_size or loaded.image_size, margin), encoder)


@app.command()
def plan(
    manifest: Manifest,
    root: Root = None,
    backbone: Backbone = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    layers: Layers = "four",
    frames: FramesOption = 12,
    sampling: Sampling = "even",
    crop_size: CropSize = None,
    margin: Margin = 1.3,
    detector: DetectorName = "mtcnn",
    detector_weights: DetectorWeights = None,
    micro_batch: MicroBatch = 16,
    precision: Precision = None,
    dtype: Dtype = "float16",
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Say what a build will take: counts, bytes and time. Tries a few files for real, writes nothing.

    \b
    Examples:
      d2st cache plan faces.parquet
      d2st cache plan faces.parquet --backbone ViT-L-14-quickgelu --layers last
      d2st cache plan faces.parquet --layers 5,8,11 --frames 24 --json
    """
    import shutil
    from dataclasses import asdict

    from d2st.cli.show import human_bytes, human_time, print_json, stdout, table
    from d2st.pipeline.build.estimate import estimate
    from d2st.pipeline.manifest import manifest_root, read_manifest
    from d2st.pipeline.media import default_workers

    rows, media = read_manifest(manifest), manifest_root(manifest, root)
    front = make_front_end(
        backbone=backbone,
        pretrained=pretrained,
        layers=layers,
        frames=frames,
        sampling=sampling,
        crop_size=crop_size,
        margin=margin,
        detector=detector,
        detector_weights=detector_weights,
        micro_batch=micro_batch,
        precision=precision,
        dtype=dtype,
        device=device,
    )
    found = estimate(
        rows,
        root=media,
        detector=front.detector,
        settings=front.settings,
        encoder=front.encoder,
        workers=workers or default_workers(),
    )
    if as_json:
        print_json(asdict(found))
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in found.samples.items())
    lines = [
        ("samples", counts),
        ("frames", f"{found.frames} in {found.shards} shards"),
        ("layers", ", ".join(front.encoder.layers)),
        ("crops", f"{human_bytes(found.crop_bytes)}, about {human_time(found.crop_seconds)}"),
        (
            "token maps",
            f"{human_bytes(found.token_bytes)}, about {human_time(found.token_seconds)} on {front.encoder.backbone.device}",
        ),
        (
            "together",
            f"{human_bytes(found.crop_bytes + found.token_bytes)}, about {human_time(found.crop_seconds + found.token_seconds)}",
        ),
        ("free disk here", human_bytes(shutil.disk_usage(".").free)),
        ("tried", f"{found.probed} files, {found.probed_rejected} of them not usable"),
    ]
    stdout().print(table("what this build will take", ("", "estimate"), lines))


@app.command()
def build(
    manifest: Manifest,
    cache: Annotated[Path, typer.Option(help="The store's folder; made when it is not there.")],
    root: Root = None,
    backbone: Backbone = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    layers: Layers = "four",
    frames: FramesOption = 12,
    sampling: Sampling = "even",
    crop_size: CropSize = None,
    margin: Margin = 1.3,
    detector: DetectorName = "mtcnn",
    detector_weights: DetectorWeights = None,
    micro_batch: MicroBatch = 16,
    precision: Precision = None,
    dtype: Dtype = "float16",
    device: Device = "auto",
    workers: Workers = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try the samples again that an earlier build left out.")] = False,
    as_json: Json = False,
) -> None:
    """Decode, crop and encode every sample of a manifest into a store. Stopped or killed, the same command goes on where it was.

    \b
    Examples:
      d2st cache build faces.parquet --cache faces.d2st
      d2st cache build faces.parquet --cache l14.d2st --backbone ViT-L-14-quickgelu --layers last
      d2st cache build crops.parquet --cache crops.d2st --detector none
      d2st cache build faces.parquet --cache faces.d2st --retry
      d2st cache build faces.parquet --cache try.d2st --backbone d2st-demo --pretrained random:0
    """
    from dataclasses import asdict

    from d2st.cli.progress import phases
    from d2st.cli.show import print_json
    from d2st.pipeline.build.run import build as run_build
    from d2st.pipeline.manifest import manifest_root, read_manifest

    rows, media = read_manifest(manifest), manifest_root(manifest, root)
    front = make_front_end(
        backbone=backbone,
        pretrained=pretrained,
        layers=layers,
        frames=frames,
        sampling=sampling,
        crop_size=crop_size,
        margin=margin,
        detector=detector,
        detector_weights=detector_weights,
        micro_batch=micro_batch,
        precision=precision,
        dtype=dtype,
        device=device,
    )
    with phases({"crops": ("decode, find faces, crop", "samples"), "tokens": ("encode with CLIP", "frames")}) as on_progress:
        report = run_build(
            rows,
            cache,
            root=media,
            detector=front.detector,
            settings=front.settings,
            encoder=front.encoder,
            workers=workers,
            retry=retry,
            on_progress=on_progress,
        )
    rejected = _write_rejected(cache)
    if as_json:
        print_json({**asdict(report), "rejected_list": str(rejected)})
    else:
        show_report(report, cache, rejected)


def _write_rejected(cache: Path) -> Path:
    """The list of what was left out, as CSV inside of the store: sample, path, reason, detail."""
    from d2st.cache.files import write_atomic
    from d2st.cache.store import Store

    path = cache / "rejected.csv"
    listed = Store.open(cache).rejected().select("sample_id", "path", "dataset", "split", "reason", "detail")
    write_atomic(path, listed.write_csv().encode())
    return path


def show_report(report: "BuildReport", cache: Path, rejected: Path) -> None:
    """The table that ends a build."""
    from d2st.cli.show import human_time, stdout, table
    from d2st.pipeline.reasons import REASONS

    console = stdout()
    seconds = report.seconds
    rows: list[tuple[object, object, object]] = [
        ("cached", report.samples, f"{report.frames} frames"),
        ("padded", report.padded, "videos with fewer frames than asked for; kept, the rest is masked"),
    ]
    rows += [(f"left out: {reason}", count, REASONS.get(reason, "")) for reason, count in report.rejected.items()]
    console.print(table(f"store {cache}", ("", "samples", ""), rows, right=("samples",)))
    if report.built_crops or report.built_tokens:
        console.print(
            f"built {report.built_crops} shards of crops in {human_time(seconds['crops'])}, "
            f"{report.built_tokens} of token maps in {human_time(seconds['tokens'])}"
        )
    else:
        console.print("everything was cached already: nothing to do")
    if report.rejected:
        console.print(
            f"{sum(report.rejected.values())} samples were left out; the list is {rejected}"
            + ("; once they are mended: --retry" if report.rejected.keys() - {"duplicate"} else ""),
            soft_wrap=True,
        )
    console.print(f"next: d2st train --cache {cache} --stage all", soft_wrap=True)


@app.command()
def info(cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")], as_json: Json = False) -> None:
    """Say what a store holds and what it was built with.

    \b
    Examples:
      d2st cache info faces.d2st
      d2st cache info faces.d2st --json
    """
    from d2st.cli.show import human_bytes, print_json, stdout, table

    found = _describe(cache)
    if as_json:
        print_json(found)
        return
    console = stdout()
    tokens = found["tokens"]
    lines = [
        ("samples", f"{found['samples']} cached, {sum(found['rejected'].values())} left out"),
        ("frames", f"{found['frames']} ({found['padded']} samples shorter than asked for)"),
        (
            "shards",
            f"{found['shards']['crops']} of crops, {found['shards']['tokens']} of token maps, {found['shards']['planned']} planned",
        ),
        ("size", f"{human_bytes(found['bytes']['crops'])} crops, {human_bytes(found['bytes']['tokens'])} token maps"),
        ("backbone", f"{tokens['backbone']} ({found['notes'].get('pretrained', '')}), weights {tokens['weights_digest']}"),
        (
            "layers",
            f"{', '.join(tokens['layers'])}: (T,{found['grid'][0]},{found['grid'][1]},{found['channels']}) {tokens['dtype']}",
        ),
        (
            "crops",
            "{size} px, {frames} frames {sampling}, margin {margin_ratio}, faces by {detector}".format(**tokens["crops"]),
        ),
        ("encoding", f"{tokens['precision']}, micro-batch {tokens['micro_batch']}"),
        ("fingerprint", found["fingerprint"]),
    ]
    console.print(table(f"store {cache}", ("", "value"), lines))
    console.print(
        table(
            "cached samples",
            ("dataset", "split", "label", "kind", "samples", "frames"),
            found["counts"],
            right=("samples", "frames"),
        )
    )
    if found["rejected"]:
        console.print(table("left out", ("reason", "samples"), sorted(found["rejected"].items()), right=("samples",)))


def _describe(cache: Path) -> dict[str, Any]:
    import polars as pl

    from d2st.cache.plan import read_plan
    from d2st.cache.store import Store

    store = Store.open(cache)
    samples = store.samples()
    crops, tokens = store.crops, store.tokens
    rows = crops.rows()
    counts = samples.group_by("dataset", "split", "label", "kind").agg(pl.len(), pl.col("frames_cached").sum()).sort(pl.all())
    return {
        "samples": samples.height,
        "frames": int(samples["frames_cached"].sum()),
        "padded": rows.join(samples, on="sample_id", how="semi")
        .filter(pl.col("reason").is_null() & (pl.col("frames") < pl.col("planned")))
        .height,
        "rejected": dict(store.rejected().group_by("reason").len().rows()),
        "shards": {
            "crops": len(crops.committed()),
            "tokens": len(tokens.level.committed()),
            "planned": read_plan(cache / "plan")["shard"].n_unique(),
        },
        "bytes": {
            name: sum(f.stat().st_size for f in (cache / name).rglob("*") if f.is_file()) for name in ("crops", "tokens")
        },
        "grid": tokens.grid,
        "channels": tokens.channels,
        "tokens": tokens.config,
        "notes": tokens.level.notes,
        "fingerprint": tokens.fingerprint,
        "counts": [(d, s, "fake" if label else "real", k, n, f) for d, s, label, k, n, f in counts.rows()],
    }
