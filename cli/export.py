"""`d2st export`: a trained detector as one file for other runtimes, or as a folder for a model hub."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


class Form(StrEnum):
    onnx = "onnx"
    pt2 = "pt2"
    hub = "hub"
    torchscript = "torchscript"


def export(
    form: Annotated[Form, typer.Argument(metavar="onnx|pt2|hub", help="What to make.", show_default=False)],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, one of its stages, or a checkpoint.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The file, or for a hub the folder.  [default: beside the checkpoint]", show_default=False),
    ] = None,
    with_backbone: Annotated[
        bool, typer.Option("--with-backbone", help="The whole detector: face crops in. Without: token maps in.")
    ] = False,
    check: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Compare on this image or video; may be repeated.  [default: the run's cache]"),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="The backbone's weights, if not where the build had them.")] = None,
    detector_weights: Annotated[
        Path | None, typer.Option(help="With --check: the face detector's ONNX file, if the cache used one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the file says of itself as JSON on stdout.")] = False,
) -> None:
    """Write a detector as ONNX, as a pt2 of torch.export, or as a folder for a model hub, with a model card beside it.

    The graph takes any batch and any number of frames and gives raw logits and the calibrated probability. Before a file is there, its
    outputs are compared with the checkpoint's on real crops, by the runtime that will run it; a difference beyond rounding is an error.
    Operating points, the front end's settings, fingerprints, opset and versions are recorded in the file, and `d2st predict --run FILE`
    needs nothing else of the run. Needs `pip install 'd2st[export]'` for onnx.

    \b
    Examples:
      d2st export onnx runs/faces --with-backbone --out detector.onnx
      d2st export pt2 runs/faces/stage2 --out adapter.pt2 --check clip.mp4
      d2st export hub runs/faces --out hub/
      d2st predict clip.mp4 --run detector.onnx
    """
    from d2st.cache.errors import UsageError

    if form is Form.torchscript:
        raise UsageError(
            "TorchScript is deprecated by PyTorch, and d2st does not write it",
            fix=f"d2st export pt2 {run} makes a program of torch.export, its successor",
        )
    if form is Form.hub and (with_backbone or check):
        raise UsageError(
            "a hub folder holds the checkpoint itself, so there is nothing to convert or compare",
            fix="Leave --with-backbone and --check out",
        )
    if form is not Form.hub and out is not None and out.suffix != f".{form.value}":
        raise UsageError(f"{out} can't be loaded by that name", fix=f"Let it end in .{form.value}")
    from d2st.adapter.train.checkpoint import resolve_checkpoint
    from d2st.cli.export_work import export_graph, export_hub
    from d2st.cli.show import human_bytes, print_json, stderr, stdout

    checkpoint = resolve_checkpoint(run)
    out = out or checkpoint.parent / _default_name(form, with_backbone=with_backbone)
    if form is Form.hub:
        said = export_hub(checkpoint, out)
        words = [f"{out} is ready to be uploaded: `hf upload OWNER/NAME {out}`; choose a licence in its README.md first"]
    else:
        with stderr().status("") as status:
            said = export_graph(
                form.value,
                checkpoint,
                out,
                with_backbone=with_backbone,
                files=check or (),
                pretrained=pretrained,
                detector_weights=detector_weights,
                on_step=lambda step: status.update(f"{form.value}: {step}"),
            )
        parity = said["parity"]
        words = [
            f"{out} ({human_bytes(out.stat().st_size)}) takes {said['eats']}; its card is {out.name}.md",
            f"parity with the checkpoint: max abs difference {parity['max_abs_logit']:.2g} of a logit,"
            f" {parity['max_abs_probability']:.2g} of a probability; {parity['clips']} clips, {parity['of']}, {parity['runtime']}",
        ]
    if as_json:
        print_json({"path": str(out), **said})
        return
    for line in words:
        stdout().print(line, markup=False, soft_wrap=True)


def _default_name(form: Form, *, with_backbone: bool) -> str:
    return "hub" if form is Form.hub else f"{'detector' if with_backbone else 'adapter'}.{form.value}"
