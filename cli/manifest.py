"""`d2st manifest`: find media, look at what was found, and check it before anything slow runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.show import print_json, stderr, stdout, table

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from d2st.pipeline.manifest import Finding

__all__ = ["app"]

app = typer.Typer(
    help="Scan media into a manifest (one row a sample), look at it, and check it for leaks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SCAN_HELP = """Find the images, videos and frame folders under ROOT and write their manifest.

Label, method and split are read off the folder names:

\b
    ROOT/real/...                       ROOT/train/real/...
    ROOT/fake/METHOD/...                ROOT/test/fake/METHOD/...
    ROOT/fake/METHOD/VIDEO/000.png      a folder of numbered images is one video

Without split folders, samples are split 70/15/15 so that no identity is in two splits.

\b
Examples:
    d2st manifest scan /data/faces
    d2st manifest scan /data/celeb --identity 'id(\\d+)' --out celeb.parquet
    d2st manifest scan /data/wild --split test --dataset wild
    d2st manifest scan /data/faces --probe --json
"""

SHOW_HELP = """Count the samples of MANIFEST by data set, split, label, method and kind.

\b
Examples:
    d2st manifest show faces.parquet
    d2st manifest show faces.parquet --json
"""

VALIDATE_HELP = """Check MANIFEST for what would spoil results: people or copies in two splits, contradicting labels, missing files.

Exit code 1 when there is an error; warnings leave it at 0.

\b
Examples:
    d2st manifest validate faces.parquet
    d2st manifest validate faces.parquet --root /data/faces
    d2st manifest validate faces.parquet --json
"""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, such as faces.parquet.", show_default=False)]


@app.command(help=SCAN_HELP)
def scan(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that holds the media.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to write.  [default: ROOT's name + .parquet, here]")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set.  [default: ROOT's name]")] = None,
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
    from d2st.pipeline.manifest import check_manifest, counts, scan_folder, write_manifest

    out = out or Path(f"{root.resolve().name or 'manifest'}.parquet")
    if out.suffix.lower() != ".parquet":
        raise typer.BadParameter(f"{out}: a manifest is a Parquet file, name it .parquet", param_hint="--out")
    made = scan_folder(root, dataset=dataset, identity=identity, split=split, frames_folders=frames_folders, probe=probe)
    write_manifest(made.manifest, out, root=root)
    summary = counts(made.manifest)
    errors = [finding for finding in check_manifest(made.manifest) if finding.severity == "error"]
    if as_json:
        document = {
            "manifest": str(out),
            "layout": made.layout,
            "samples": made.manifest.height,
            "counts": summary.to_dicts(),
            "ignored": dict(made.ignored.extensions),
            "notes": list(made.notes),
            "errors": {finding.code: finding.count for finding in errors},
        }
        print_json(document)
        return
    for note in made.notes:
        stderr().print(f"note: {note}", markup=False, soft_wrap=True)
    stdout().print(_counts_table(f"{out}: {made.manifest.height} samples ({made.layout})", summary))
    for finding in errors:
        stderr().print(f"error: {finding.count} {finding.message}. {finding.fix}", style="red", markup=False, soft_wrap=True)
    if errors:
        command = ["d2st", "manifest", "validate", str(out)]
    else:
        command = ["d2st", "cache", "build", str(out), "--cache", str(out.with_suffix(".d2st"))]
    stdout().print(f"Next: {shlex.join(command)}", markup=False, soft_wrap=True)


@app.command(help=SHOW_HELP)
def show(manifest: Manifest, as_json: Json = False) -> None:
    from d2st.pipeline.manifest import counts, read_manifest

    rows = read_manifest(manifest)
    summary = counts(rows)
    if as_json:
        print_json({"manifest": str(manifest), "samples": rows.height, "counts": summary.to_dicts()})
    else:
        stdout().print(_counts_table(f"{manifest}: {rows.height} samples", summary))


@app.command(help=VALIDATE_HELP)
def validate(
    manifest: Manifest,
    root: Annotated[Path | None, typer.Option(help="Also check that every file is under this folder.")] = None,
    as_json: Json = False,
) -> None:
    from dataclasses import asdict

    from d2st.cache.errors import ManifestError
    from d2st.pipeline.manifest import Finding, check_files, check_manifest, load_manifest, manifest_root

    samples = 0
    try:
        rows = load_manifest(manifest)
    except ManifestError as error:
        if not manifest.is_file():
            raise
        findings = [Finding("error", "schema", error.message, error.fix, 1)]
    else:
        samples = rows.height
        findings = check_manifest(rows)
        if root is not None:
            findings += check_files(rows, manifest_root(manifest, root))
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        document = {
            "manifest": str(manifest),
            "samples": samples,
            "errors": errors,
            "findings": [asdict(item) for item in findings],
        }
        print_json(document)
    elif findings:
        stdout().print(_findings_table(str(manifest), findings))
    else:
        stdout().print(f"{manifest}: {samples} samples, nothing wrong", markup=False, soft_wrap=True)
    if errors:
        raise typer.Exit(1)


def _counts_table(title: str, summary: "pl.DataFrame") -> "Table":
    numbers = ("samples", "videos", "identities", "duplicates")
    rows = []
    for row in summary.iter_rows(named=True):
        label = "fake" if row["label"] else "real"
        names = (row["dataset"], row["split"], label, row["method"], row["kind"])
        rows.append([*names, *(row[name] for name in numbers)])
    return table(title, ["data set", "split", "label", "method", "kind", *numbers], rows, right=numbers)


def _findings_table(title: str, findings: "list[Finding]") -> "Table":
    rows = [
        [
            finding.severity,
            finding.code,
            finding.count,
            finding.message,
            "\n".join(finding.examples),
            finding.fix,
        ]
        for finding in findings
    ]
    return table(title, ["severity", "code", "count", "what", "examples", "fix"], rows, right=["count"])
