"""`d2st manifest check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.manifest.options import Json, Manifest
from d2st.cli.show import print_json, stdout, table

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from d2st.pipeline.manifest import Finding

__all__ = ["check"]


def check(
    manifest: Manifest,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Also check that every file is under this folder.")] = None,
    near: Annotated[
        bool,
        typer.Option("--near", help="Also decode a few frames of each file, and find those that look alike across splits."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check MANIFEST for what would spoil results: people, sources or copies in two splits, val that repeats test, contradicting labels,
    splits of one class, missing files.

    Exit code 1 when there is an error; warnings leave it at 0.

    \b
    Examples:
      d2st manifest check faces.parquet
      d2st manifest check faces.parquet --root /data/faces
      d2st manifest check faces.parquet --near --json
    """
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
        if near and not any(finding.code == "empty_cell" for finding in findings):
            findings += _near(rows, manifest_root(manifest, root), quiet=as_json)
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


def _near(rows: "pl.DataFrame", root: Path, *, quiet: bool) -> "list[Finding]":
    from d2st.cli.progress import phases
    from d2st.pipeline.manifest.near import check_near

    with phases({"look": ("looking at files", "files")}, quiet=quiet) as progress:
        progress("look", 0, rows.height)
        return check_near(rows, root, on_done=lambda done: progress("look", done, rows.height))


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
