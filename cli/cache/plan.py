"""`d2st cache plan`: what a build will take, before anything runs."""

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

__all__ = ["plan"]


def plan(
    manifest: Manifest,
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
    as_json: Json = False,
) -> None:
    """Say what a build will take: counts, bytes and time. Tries a few files for real, and keeps nothing of them.

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
    found = estimate(
        rows,
        root=media,
        detector=front.detector,
        settings=front.settings,
        encoder=front.encoder,
        workers=workers,
    )
    if as_json:
        print_json(asdict(found))
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in found.samples.items())
    alone = ", ".join(f"{stage} {human_time(seconds)}" for stage, seconds in found.stages.items())
    device = front.encoder.backbone.device
    lines = [
        ("samples", counts),
        ("frames", f"about {found.frames} of {found.slots} asked for, in {found.shards} shards"),
        ("layers", ", ".join(front.encoder.layers)),
        ("crops", human_bytes(found.crop_bytes)),
        ("token maps", f"{human_bytes(found.token_bytes)} as {dtype}"),
        ("together", f"{human_bytes(found.crop_bytes + found.token_bytes)}, about {human_time(found.seconds)} on {device}"),
        ("each stage alone", alone),
        ("free disk here", human_bytes(shutil.disk_usage(".").free)),
        ("tried", f"{found.probed} files, {found.probed_rejected} of them not usable"),
    ]
    stdout().print(table("what this build will take", ("", "estimate"), lines))
