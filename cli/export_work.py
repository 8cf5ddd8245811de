"""The work of `d2st export`: a checkpoint to a file or folder, compared on real crops, with its card."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from d2st.adapter.export.parity import Clip
    from d2st.adapter.nets import Detector
    from d2st.pipeline.clip import Encoder

__all__ = ["export_graph", "export_hub"]

LOAD = """\
```python
from d2st import Detector

found = Detector.load("{name}").predict("clip.mp4")
print(found.probability, found.fake)
```

or `d2st predict clip.mp4 --run {name}`. It needs the package d2st{extra}{weights}."""
GRAPH = """

Without d2st, by {runtime}: {inputs} in, `logit` (B), `frame_logits` (B, T) and the calibrated `probability` (B) out; any
batch, any number of frames, all of them valid. {reading}"""
HUB = """

Upload the folder as it is (`hf upload OWNER/NAME {name}`), and load it back with
`Detector.load(huggingface_hub.snapshot_download("OWNER/NAME"))`. Choose a licence for the weights first, in the first lines of
this card: d2st's own is Apache-2.0, but weights also carry the terms of the data and of the CLIP weights that they were made with."""


def export_graph(
    form: str,
    checkpoint: Path,
    out: Path,
    *,
    with_backbone: bool,
    files: Sequence[Path],
    pretrained: str | None,
    detector_weights: Path | None,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Write `out` ("pt2" or "onnx") and its card beside it; returns what the file says of itself.

    Raises:
        RunError, WeightsError: as `Detector.load` does; RunError where the parity fails. Then nothing is left.
        ConfigError: a package is missing, or the model is too large for the format.
    """
    import torch

    from d2st.adapter.evaluate.digest import checkpoint_digest
    from d2st.adapter.export import about, write
    from d2st.adapter.export.card import model_card, run_record
    from d2st.adapter.export.graph import CropGraph, MapGraph
    from d2st.adapter.export.parity import compare
    from d2st.adapter.export.program import require
    from d2st.adapter.train.checkpoint import load_detector
    from d2st.cache.files import write_atomic
    from d2st.pipeline.build.restore import restore_front_end

    for package in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        require(package)  # before any work
    on_step("loading")
    detector, meta = load_detector(checkpoint)
    front_end = None
    if with_backbone or files:
        front_end = restore_front_end(
            meta["config"],
            pretrained=pretrained or meta["notes"]["pretrained"],
            detector_weights=detector_weights,
            calibration=meta["calibration"],
        )
    encoder = front_end.encoder if with_backbone else None
    clips, of = _clips(checkpoint, meta, encoder, front_end, files)
    graph: nn.Module = MapGraph(
        detector, layers=meta["layers"], clip_frames=meta["clip_frames"], temperatures=about.temperatures(meta)
    )
    inputs, dtype = _inputs(meta, detector, encoder)
    if encoder is not None:
        from d2st.pipeline.clip.graph import TokenGraph

        graph = CropGraph(TokenGraph(encoder, size=meta["config"]["crops"]["size"]), graph)
    digest = checkpoint_digest(checkpoint)
    said = about.describe(
        meta,
        checkpoint=digest,
        inputs=inputs,
        frames=write.FRAMES,
        batch=write.BATCH,
        opset=write.OPSET if form == "onnx" else None,
    )
    on_step("tracing")
    program = write.trace(graph, inputs=inputs, dtype=getattr(torch, dtype))
    on_step("writing and comparing")

    def check(opened: Any) -> dict[str, Any]:
        return compare(opened, detector, clips, of=of)

    if form == "onnx":
        said = write.write_onnx(program, out, names=list(inputs), about=said, check=check)
    else:
        said = write.write_pt2(program, out, about=said, check=check)
    card = model_card(
        meta,
        name=_title(checkpoint, out),
        record=run_record(checkpoint),
        checkpoint=digest,
        about=said,
        loading=_loading(out.name, form, said, inputs),
    )
    write_atomic(card_path(out), card.encode())
    return said


def export_hub(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Fill the folder `out`; returns {"checkpoint": digest, "versions"}."""
    from d2st.adapter.evaluate.digest import checkpoint_digest
    from d2st.adapter.export import about
    from d2st.adapter.export.card import header, model_card, run_record
    from d2st.adapter.export.hub import write_hub
    from d2st.adapter.train.checkpoint import load_detector

    _, meta = load_detector(checkpoint)  # what would be refused is not handed on
    said = {"checkpoint": checkpoint_digest(checkpoint), "versions": about.versions()}
    loading = LOAD.format(name=out.name, extra="", weights=_WEIGHTS) + HUB.format(name=out.name)
    card = model_card(
        meta,
        name=_title(checkpoint, out),
        record=run_record(checkpoint),
        checkpoint=said["checkpoint"],
        about=said,
        loading=loading,
    )
    write_hub(
        out, checkpoint=checkpoint, digest=said["checkpoint"], meta=meta, card=header(meta) + card, versions=said["versions"]
    )
    return said


def card_path(out: Path) -> Path:
    """Where the card of a file stands."""
    return out.with_name(f"{out.name}.md")


_WEIGHTS = ", and the CLIP weights named below, which it downloads or is told by `--pretrained`"


def _clips(
    checkpoint: Path, meta: dict[str, Any], encoder: "Encoder | None", front_end: Any, files: Sequence[Path]
) -> "tuple[list[Clip], str]":
    """What to compare on, and what it is in words."""
    from d2st.cli import export_clips

    wanted = {"layers": meta["layers"], "clip_frames": meta["clip_frames"]}
    if files:
        return export_clips.clips_of_files(front_end, files, **wanted), f"of {len(files)} files that were named"
    store = export_clips.open_cache(checkpoint, meta)
    if store is not None:
        return export_clips.clips_of_cache(store, encoder, **wanted), f"face crops of {store.path.name}"
    return export_clips.made_up_clips(encoder, meta, **wanted), "of noise, for the run's cache is not there"


def _inputs(meta: dict[str, Any], detector: "Detector", encoder: "Encoder | None") -> tuple[dict[str, tuple[int, ...]], str]:
    """Names and shapes of one frame of what the graph takes, and their dtype."""
    if encoder is not None:
        size = meta["config"]["crops"]["size"]
        return {"crops": (size, size, 3)}, "uint8"
    channels = meta["channels"]
    maps = {f"maps.{layer}": (*meta["grid"], channels) for layer in meta["layers"] if detector.adapter.needs_maps}
    return maps | {f"cls.{layer}": (channels,) for layer in meta["layers"]}, "float32"


def _title(checkpoint: Path, out: Path) -> str:
    return checkpoint.parent.parent.name if (checkpoint.parent / "recipe.toml").is_file() else out.stem


def _loading(name: str, form: str, said: dict[str, Any], inputs: dict[str, tuple[int, ...]]) -> str:
    kinds = ", ".join(f"`{key}` (B, T, {', '.join(map(str, shape))})" for key, shape in inputs.items())
    whole = said["eats"] == "crops"
    runtime = "onnxruntime" if form == "onnx" else "`torch.export.load`"
    reading = (
        "Crops are RGB, aligned to the face as d2st cuts them."
        if whole
        else "Token maps are the raw residual stream behind each block, rounded as the cache rounds them."
    )
    text = LOAD.format(name=name, extra=" with `d2st[export]`" if form == "onnx" else "", weights="" if whole else _WEIGHTS)
    text += GRAPH.format(runtime=runtime, inputs=f"{kinds} {'uint8' if whole else 'float32'}", reading=reading)
    if form == "pt2":
        text += " A pt2 is read by code that trusts its file: take none from strangers."
    return text
