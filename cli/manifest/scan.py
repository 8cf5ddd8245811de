"""`d2st manifest scan`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.manifest.options import Json, counts_table, say_errors
from d2st.cli.show import print_json, stderr, stdout

__all__ = ["scan"]


def scan(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of media, or a list: .json, .csv, .parquet.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write.  [default: SOURCE's name + .parquet, here]")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="ffpp, celeb-df, dfdc, dfdc-preview, wild, deepfakebench, table, folders.  [default: as recognised]",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where a list's paths start from.  [default: the list's own folder]")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set.  [default: the layout's or SOURCE's]")] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="REGEX", help="One group; all its matches in a path are that sample's identities.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="train|val|test", help="Put everything into this split.")] = None,
    frames_folders: Annotated[
        str, typer.Option(metavar="auto|always|never", help="Which folders of images are one video; auto: numbered images.")
    ] = "auto",
    probe: Annotated[bool, typer.Option("--probe", help="Open every file for frames, fps, width and height (slow).")] = False,
    as_json: Json = False,
) -> None:
    """Find the samples of a data set and write their manifest.

    Recognises FaceForensics++ (with DFD), Celeb-DF, DFDC and its preview, WildDeepfake, the JSON lists of DeepfakeBench and DF40,
    tables of your own, and plain class folders:

    \b
        ROOT/real/...                       ROOT/train/real/...
        ROOT/fake/METHOD/...                ROOT/test/fake/METHOD/...
        ROOT/fake/METHOD/VIDEO/000.png      a folder of numbered images is one video

    Where a data set has no splits, samples are split 70/15/15 so that no identity is in two of them.

    \b
    Examples:
      d2st manifest scan /data/FaceForensics++
      d2st manifest scan /data/faces --identity 'id(\\d+)' --out faces.parquet
      d2st manifest scan Celeb-DF-v2.json --root /data/rgb
      d2st manifest scan mine.csv --root /data
      d2st manifest scan /data/wild --split test --dataset wild --json
    """
    from d2st.cache.files import write_atomic
    from d2st.pipeline.manifest import counts, scan_folder, write_manifest

    out = out or Path(f"{source.stem if source.is_file() else source.resolve().name or 'manifest'}.parquet")
    if out.suffix.lower() != ".parquet":
        raise typer.BadParameter(f"{out}: a manifest is a Parquet file, name it .parquet", param_hint="--out")
    if out.exists() and source.is_file() and out.samefile(source):
        raise typer.BadParameter("would overwrite SOURCE; name another file", param_hint="--out")
    made = scan_folder(
        source,
        root=root,
        layout=layout,
        dataset=dataset,
        identity=identity,
        split=split,
        frames_folders=frames_folders,
        probe=probe,
    )
    write_manifest(made.manifest, out, root=made.root)
    lacking = out.with_suffix(".missing.txt")
    if made.ignored.missing:
        write_atomic(lacking, "".join(f"{path}\n" for path in made.ignored.missing).encode())
    else:
        lacking.unlink(missing_ok=True)  # that of an earlier scan
    if as_json:
        document = {
            "manifest": str(out),
            "layout": made.layout,
            "samples": made.manifest.height,
            "counts": counts(made.manifest).to_dicts(),
            "ignored": dict(made.ignored.extensions),
            "missing": len(made.ignored.missing),
            "missing_list": str(lacking) if made.ignored.missing else None,
            "notes": list(made.notes),
            "errors": say_errors(made.manifest),
        }
        print_json(document)
        return
    for note in made.notes:
        stderr().print(f"note: {note}", markup=False, soft_wrap=True)
    if made.ignored.missing:
        stderr().print(f"note: All that is missing is listed in {lacking}.", markup=False, soft_wrap=True)
    stdout().print(counts_table(f"{out}: {made.manifest.height} samples ({made.layout})", made.manifest))
    if say_errors(made.manifest):
        command = ["d2st", "manifest", "check", str(out)]
    else:
        command = ["d2st", "cache", "build", str(out), "--cache", str(out.with_suffix(".d2st"))]
    stdout().print(f"Next: {shlex.join(command)}", markup=False, soft_wrap=True)
