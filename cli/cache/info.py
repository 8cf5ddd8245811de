"""`d2st cache info`: what a store holds, and what it was built with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.cache.options import Json

if TYPE_CHECKING:
    from d2st.cache.store import Store

__all__ = ["info"]


def info(cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")], as_json: Json = False) -> None:
    """Say what a store holds and what it was built with. Whether it is whole, `d2st cache verify` tells.

    \b
    Examples:
      d2st cache info faces.d2st
      d2st cache info faces.d2st --json
    """
    from d2st.cache.store import Store
    from d2st.cli.show import human_bytes, print_json, stdout, table

    store = Store.open(cache)
    found = _describe(store)
    if as_json:
        print_json(found)
        return
    console, crops = stdout(), found["crops"]
    faces = "{size} px, {frames} frames {sampling}, margin {margin_ratio}, faces by {detector}".format(**crops["config"])
    lines = [
        (
            "samples",
            f"{crops['samples']} cached ({crops['padded']} shorter than asked for), {sum(found['rejected'].values())} left out",
        ),
        (
            "crops",
            f"{crops['frames']} frames in {crops['shards']} of {found['planned_shards']} shards, {human_bytes(crops['bytes'])}",
        ),
        ("made as", faces),
        ("store format", found["format"]),
    ]
    console.print(table(f"store {cache}", ("", "value"), lines))
    for name, tokens in found["token_sets"].items():
        config = tokens["config"]
        shape = f"(T,{tokens['grid'][0]},{tokens['grid'][1]},{tokens['channels']})" if tokens["grid"] else "nothing yet"
        lines = [
            ("backbone", f"{config['backbone']} ({tokens['notes'].get('pretrained', '')}), weights {config['weights_digest']}"),
            ("layers", f"{', '.join(tokens['layers'])}: {shape} {config['dtype']}"),
            ("encoding", f"{config['image_size']} px, {config['precision']}, micro-batch {config['micro_batch']}"),
            *([("view", _view(config["view"]))] if "view" in config else []),
            (
                "frames",
                f"{tokens['frames']} of {tokens['samples']} samples in {tokens['shards']} shards, {human_bytes(tokens['bytes'])}",
            ),
            ("fingerprint", tokens["fingerprint"]),
        ]
        console.print(table(f"token set {name}", ("", "value"), lines))
    columns = ("dataset", "split", "label", "kind", "samples", "frames")
    console.print(table("cached samples", columns, found["counts"], right=("samples", "frames")))
    if found["rejected"]:
        console.print(table("left out", ("reason", "samples"), sorted(found["rejected"].items()), right=("samples",)))


def _view(declared: dict[str, Any]) -> str:
    """What was done to the crops, in words."""
    parts = ["mirrored"] if declared["flip"] else []
    if "brightness" in declared:
        parts.append(f"brightness times {1 - declared['brightness']:g} to {1 + declared['brightness']:g}, one a sample")
    return ", ".join(parts)


def _describe(store: "Store") -> dict[str, Any]:
    import polars as pl

    manifest, level = store.manifest(), store.crops
    planned = set(store.plan()["shard"])  # without those that a retry has put others in place of
    rows = store.current(level).join(manifest.drop("frames"), on="sample_id")  # probed frames; the ledger's count here
    cached = rows.filter(pl.col("reason").is_null())
    groups = cached.group_by("dataset", "split", "label", "kind").agg(pl.len(), pl.col("frames").sum()).sort(pl.all())
    return {
        "format": store.format,
        "planned_shards": len(planned),
        "crops": {
            "samples": cached.height,
            "frames": int(cached["frames"].sum()),
            "padded": cached.filter(pl.col("frames") < pl.col("planned")).height,
            "shards": len(level.committed() & planned),
            "bytes": _size(level.path),
            "config": level.config,
            "fingerprint": level.fingerprint,
        },
        "token_sets": {name: _describe_tokens(store, name) for name in store.token_sets()},
        "rejected": dict(rows.filter(pl.col("reason").is_not_null()).group_by("reason").len().rows()),
        "counts": [(d, s, "fake" if label else "real", k, n, f) for d, s, label, k, n, f in groups.rows()],
    }


def _describe_tokens(store: "Store", name: str) -> dict[str, Any]:
    from d2st.cache.store import Store, TokenLevel

    levels = store.token_levels(name)
    begun = all((level.array(f"{level.config['layers'][0]}/maps") / "zarr.json").exists() for level in levels)
    tokens = TokenLevel(levels) if begun else None
    samples = Store.open(store.path, tokens=name).samples() if tokens else None
    return {
        "layers": tokens.layers if tokens else levels[0].config["layers"],
        "grid": tokens.grid if tokens else None,
        "channels": tokens.channels if tokens else None,
        "samples": samples.height if samples is not None else 0,
        "frames": int(samples["frames_cached"].sum()) if samples is not None else 0,
        "shards": min(len(level.committed() & set(store.plan()["shard"])) for level in levels),
        "bytes": sum(_size(level.path) for level in levels),
        "config": tokens.config if tokens else levels[0].config,
        "notes": levels[0].notes,
        "fingerprint": tokens.fingerprint if tokens else levels[0].fingerprint,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
