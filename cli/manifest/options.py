"""Options and tables that the commands of `d2st manifest` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2st.cli.show import stderr, table

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

__all__ = ["Json", "Manifest", "counts_table", "say_errors"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, such as faces.parquet.", show_default=False)]


def counts_table(title: str, rows: "pl.DataFrame") -> "Table":
    """Samples by data set, split, label, method and kind."""
    from d2st.pipeline.manifest import counts

    numbers = ("samples", "videos", "identities", "duplicates")
    lines = []
    for row in counts(rows).iter_rows(named=True):
        label = "fake" if row["label"] else "real"
        names = (row["dataset"], row["split"], label, row["method"], row["kind"])
        lines.append([*names, *(row[name] for name in numbers)])
    return table(title, ["data set", "split", "label", "method", "kind", *numbers], lines, right=numbers)


def say_errors(rows: "pl.DataFrame") -> dict[str, int]:
    """Print what `d2st manifest check` would call errors, a line each on stderr; returns their counts by code."""
    from d2st.pipeline.manifest import check_manifest

    errors = [finding for finding in check_manifest(rows) if finding.severity == "error"]
    for finding in errors:
        stderr().print(f"error: {finding.count} {finding.message}. {finding.fix}", style="red", markup=False, soft_wrap=True)
    return {finding.code: finding.count for finding in errors}
