"""`d2st cache gc`: give back the room of what nobody wants any more."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.cache.options import Json

__all__ = ["gc"]


def gc(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    manifest: Annotated[
        Path | None, typer.Option(help="Keep the samples of this manifest [default: that of the store's last build].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Drop samples that left the manifest, superseded rows and leftovers of killed builders. Rows of what stays do not move.

    Shards with nothing to drop are not touched. Stopped or killed, the same command goes on. A sample that comes back is built again.

    \b
    Examples:
      d2st cache gc faces.d2st --dry-run
      d2st cache gc faces.d2st
      d2st cache gc faces.d2st --manifest smaller.parquet
    """
    from dataclasses import asdict

    from d2st.cache.errors import ManifestError
    from d2st.cache.gc import collect
    from d2st.cache.store import Store
    from d2st.cli.progress import phases
    from d2st.cli.show import human_bytes, human_time, print_json, stdout
    from d2st.pipeline.manifest import read_manifest

    wanted = None if manifest is None else read_manifest(manifest)["sample_id"]
    if wanted is not None and set(wanted).isdisjoint(planned := Store.open(cache).plan()["sample_id"]) and len(planned):
        raise ManifestError(
            f"{manifest} has none of the {len(planned)} samples of {cache}: everything would go",
            fix="Name a manifest of the same media and dataset names as the store's, or delete the folder",
        )
    with phases({"gc": ("look for what can go" if dry_run else "rewrite", "shards")}, quiet=as_json) as on_progress:
        done = collect(cache, wanted=wanted, dry_run=dry_run, on_progress=lambda step, total: on_progress("gc", step, total))
    if as_json:
        print_json(asdict(done))
        return
    console = stdout()
    if not (done.rewritten or done.removed or done.leftovers or done.samples):
        console.print(f"{cache} holds nothing that can go", markup=False)
        return
    console.print(
        f"{'would free' if dry_run else 'freed'} {human_bytes(done.bytes)} in {human_time(done.seconds)}: {len(done.samples)} samples "
        f"with {done.frames} frames, {done.superseded} superseded rows, {done.leftovers} leftovers; "
        f"{done.rewritten} shards {'would be ' if dry_run else ''}rewritten, {done.removed} removed",
        soft_wrap=True,
    )
