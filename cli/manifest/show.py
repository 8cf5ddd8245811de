"""`d2st manifest show`."""

from d2st.cli.manifest.options import Json, Manifest, counts_table
from d2st.cli.show import print_json, stdout

__all__ = ["show"]


def show(manifest: Manifest, as_json: Json = False) -> None:
    """Count the samples of MANIFEST by data set, split, label, method and kind.

    \b
    Examples:
      d2st manifest show faces.parquet
      d2st manifest show faces.parquet --json
    """
    from d2st.pipeline.manifest import counts, read_manifest

    rows = read_manifest(manifest)
    if as_json:
        print_json({"manifest": str(manifest), "samples": rows.height, "counts": counts(rows).to_dicts()})
    else:
        stdout().print(counts_table(f"{manifest}: {rows.height} samples", rows))
