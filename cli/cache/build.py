"""`d2st cache build`: media to a store of token maps."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.cache.options import (
    Backbone,
    CropSize,
    DetectorName,
    DetectorWeights,
    Device,
    Dtype,
    FramesOption,
    ImageSize,
    Json,
    Layers,
    Manifest,
    Margin,
    MicroBatch,
    Precision,
    Pretrained,
    Root,
    Sampling,
    Workers,
    make_front_end,
)
from d2st.cli.cache.work import ShardPart, parse_part, show_work

if TYPE_CHECKING:
    from d2st.pipeline.build.run import BuildReport

__all__ = ["build", "show_report"]


def build(
    manifest: Manifest,
    cache: Annotated[Path, typer.Option(help="The store's folder; made when it is not there.")],
    root: Root = None,
    backbone: Backbone = "ViT-B-16-quickgelu",
    pretrained: Pretrained = "openai",
    image_size: ImageSize = None,
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
    shard: ShardPart = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try the samples again that an earlier build left out.")] = False,
    as_json: Json = False,
) -> None:
    """Decode, crop and encode every sample of a manifest into a store. Stopped or killed, the same command goes on where it was.

    Run it several times at once, on machines that see the same folder too, and they share the work.

    \b
    Examples:
      d2st cache build faces.parquet --cache faces.d2st
      d2st cache build faces.parquet --cache l14.d2st --backbone ViT-L-14-quickgelu --layers last
      d2st cache build faces.parquet --cache b16-384.d2st --image-size 384
      d2st cache build crops.parquet --cache crops.d2st --detector none
      d2st cache build faces.parquet --cache faces.d2st --dtype int8
      d2st cache build faces.parquet --cache faces.d2st --retry
      d2st cache build faces.parquet --cache faces.d2st --shard 1/4
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
        image_size=image_size,
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
            part=parse_part(shard),
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
    from d2st.pipeline.build.report import outcomes

    path, store = cache / "rejected.csv", Store.open(cache)
    manifest = store.manifest()
    found = outcomes(store.crops, store.plan(), manifest).drop_nulls("reason").sort("sample_id")
    listed = found.join(manifest, on="sample_id", how="inner", maintain_order="left")
    write_atomic(path, listed.select("sample_id", "path", "dataset", "split", "reason", "detail").write_csv().encode())
    return path


def show_report(report: "BuildReport", cache: Path, rejected: Path) -> None:
    """The tables that end a build."""
    from d2st.cli.show import stdout, table
    from d2st.pipeline.reasons import REASONS

    console = stdout()
    rows: list[tuple[object, object, object]] = [
        ("cached", report.samples, f"{report.frames} frames"),
        ("padded", report.padded, "videos with fewer frames than asked for; kept, the rest is masked"),
    ]
    rows += [(f"left out: {reason}", count, REASONS.get(reason, "")) for reason, count in report.rejected.items()]
    console.print(table(f"store {cache}", ("", "samples", ""), rows, right=("samples",)))
    show_work(report, console)
    if report.rejected:
        console.print(
            f"{sum(report.rejected.values())} samples were left out; the list is {rejected}"
            + ("; once they are mended: --retry" if report.rejected.keys() - {"duplicate"} else ""),
            markup=False,
            soft_wrap=True,
        )
    for note in _behind(cache):
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"next: {shlex.join(['d2st', 'train', '--cache', str(cache)])} --stage all", markup=False, soft_wrap=True)


def _behind(cache: Path) -> list[str]:
    """Token sets and added layers that newer samples have not come to: training on them leaves those samples out."""
    from d2st.cache.store import MAIN, Store

    store, notes = Store.open(cache), []
    there = store.token_levels(MAIN)[0].committed()
    for name in store.token_sets():
        for level in store.token_levels(name):
            layers, command = ",".join(level.config["layers"]), f"d2st cache encode {shlex.quote(str(cache))} --as {name} ..."
            if "+" in level.name:
                command = f"d2st cache add-layers {shlex.quote(str(cache))} --layers {layers} --tokens {name}"
            if lacking := there - level.committed():
                notes.append(
                    f"token set {name} lacks {layers} of {len(lacking)} shards, and training on it leaves their samples out, "
                    f"until this command is run again: {command}"
                )
    return notes
