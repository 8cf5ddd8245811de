"""`d2st cache info`: what a store holds, and what it was built with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from d2st.cli.cache.options import Json

__all__ = ["info"]


def info(cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")], as_json: Json = False) -> None:
    """Say what a store holds and what it was built with.

    \b
    Examples:
      d2st cache info faces.d2st
      d2st cache info faces.d2st --json
    """
    from d2st.cli.show import human_bytes, print_json, stdout, table

    found = _describe(cache)
    if as_json:
        print_json(found)
        return
    console = stdout()
    tokens = found["tokens"]
    lines = [
        ("samples", f"{found['samples']} cached, {sum(found['rejected'].values())} left out"),
        ("frames", f"{found['frames']} ({found['padded']} samples shorter than asked for)"),
        (
            "shards",
            f"{found['shards']['crops']} of crops, {found['shards']['tokens']} of token maps, {found['shards']['planned']} planned",
        ),
        ("size", f"{human_bytes(found['bytes']['crops'])} crops, {human_bytes(found['bytes']['tokens'])} token maps"),
        ("backbone", f"{tokens['backbone']} ({found['notes'].get('pretrained', '')}), weights {tokens['weights_digest']}"),
        (
            "layers",
            f"{', '.join(tokens['layers'])}: (T,{found['grid'][0]},{found['grid'][1]},{found['channels']}) {tokens['dtype']}",
        ),
        (
            "crops",
            "{size} px, {frames} frames {sampling}, margin {margin_ratio}, faces by {detector}".format(**tokens["crops"]),
        ),
        ("encoding", f"{tokens['precision']}, micro-batch {tokens['micro_batch']}"),
        ("fingerprint", found["fingerprint"]),
    ]
    console.print(table(f"store {cache}", ("", "value"), lines))
    console.print(
        table(
            "cached samples",
            ("dataset", "split", "label", "kind", "samples", "frames"),
            found["counts"],
            right=("samples", "frames"),
        )
    )
    if found["rejected"]:
        console.print(table("left out", ("reason", "samples"), sorted(found["rejected"].items()), right=("samples",)))


def _describe(cache: Path) -> dict[str, Any]:
    import polars as pl

    from d2st.cache.plan import read_plan
    from d2st.cache.store import Store

    store = Store.open(cache)
    samples = store.samples()
    crops, tokens = store.crops, store.tokens
    rows = crops.rows()
    counts = samples.group_by("dataset", "split", "label", "kind").agg(pl.len(), pl.col("frames_cached").sum()).sort(pl.all())
    return {
        "samples": samples.height,
        "frames": int(samples["frames_cached"].sum()),
        "padded": rows.join(samples, on="sample_id", how="semi")
        .filter(pl.col("reason").is_null() & (pl.col("frames") < pl.col("planned")))
        .height,
        "rejected": dict(store.rejected().group_by("reason").len().rows()),
        "shards": {
            "crops": len(crops.committed()),
            "tokens": len(tokens.level.committed()),
            "planned": read_plan(cache / "plan")["shard"].n_unique(),
        },
        "bytes": {
            name: sum(f.stat().st_size for f in (cache / name).rglob("*") if f.is_file()) for name in ("crops", "tokens")
        },
        "grid": tokens.grid,
        "channels": tokens.channels,
        "tokens": tokens.config,
        "notes": tokens.level.notes,
        "fingerprint": tokens.fingerprint,
        "counts": [(d, s, "fake" if label else "real", k, n, f) for d, s, label, k, n, f in counts.rows()],
    }
