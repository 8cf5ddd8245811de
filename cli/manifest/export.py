"""`d2st manifest export`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from d2st.cli.manifest.options import Manifest
from d2st.cli.show import stderr, stdout

__all__ = ["export"]


def export(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="Where to write.", show_default=False)],
    layout: Annotated[Literal["deepfakebench"], typer.Option(help="Which list.")] = "deepfakebench",
) -> None:
    """Write MANIFEST as the JSON list of another tool. DeepfakeBench reads frame folders, so videos and single images are left out.

    \b
    Examples:
      d2st manifest export faces.parquet --out faces.json
    """
    from d2st.cache.files import write_atomic
    from d2st.pipeline.manifest import manifest_root, read_manifest
    from d2st.pipeline.manifest.export import to_deepfakebench

    rows = read_manifest(manifest)
    made, left = to_deepfakebench(rows, manifest_root(manifest))
    write_atomic(out, (json.dumps(made, indent=1) + "\n").encode())
    stdout().print(f"{out}: {rows.height - left} videos, {layout}", markup=False, soft_wrap=True)
    if left:
        what = "videos and images that are no frame folders; DeepfakeBench wants frames"
        stderr().print(f"note: left out {left} {what}", markup=False, soft_wrap=True)
