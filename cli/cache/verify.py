"""`d2st cache verify`: is the store whole, and if not, which samples are hit and what mends it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from d2st.cli.cache.options import Json

if TYPE_CHECKING:
    from d2st.cache.verify import Damage, Verification

__all__ = ["damage_table", "verify", "with_samples"]

ROWS_SHOWN, SAMPLES_SHOWN = 40, 3


def verify(
    cache: Annotated[Path, typer.Argument(help="The store's folder.", metavar="CACHE")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte; otherwise sizes, indexes and all small files alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a store: seals, checksums, configs, ledgers and plan. Says which samples damage hits. Changes nothing; exits with 1 if damaged.

    \b
    Examples:
      d2st cache verify faces.d2st
      d2st cache verify faces.d2st --deep
      d2st cache verify faces.d2st --deep --json
    """
    from dataclasses import asdict

    from d2st.cache.verify import verify as run_verify
    from d2st.cli.progress import phases
    from d2st.cli.show import print_json

    with phases({"verify": ("read every byte" if deep else "check", "shards")}, quiet=as_json) as on_progress:
        found = run_verify(cache, deep=deep, on_progress=lambda done, total: on_progress("verify", done, total))
    if as_json:
        print_json({**asdict(found), "whole": not found.damages, "samples": found.samples, "repair": _repair(cache, found)})
    else:
        _show(found, cache)
    if found.damages:
        raise typer.Exit(1)


def _show(found: "Verification", cache: Path) -> None:
    from d2st.cache.verify import MENDS
    from d2st.cli.show import human_bytes, human_time, stdout

    console = stdout()
    rate = f" ({found.bytes / 1e9 / max(found.seconds, 1e-9):.2f} GB/s)" if found.deep else ""
    console.print(
        f"checked {found.files} files, {human_bytes(found.bytes)} of shard files in {human_time(found.seconds)}{rate}"
        + ("" if found.deep else "; sizes and indexes of shard files alone: --deep reads every byte"),
        soft_wrap=True,
    )
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if not found.damages:
        console.print(f"{cache} is whole", markup=False)
        return
    console.print(damage_table(f"damaged files: {len(found.damages)}", found.damages))
    if len(found.damages) > ROWS_SHOWN:
        console.print(f"and {len(found.damages) - ROWS_SHOWN} more: --json lists all")
    console.print(f"samples hit: {with_samples(found.samples)}", markup=False, soft_wrap=True)
    for mend in sorted({damage.mend for damage in found.damages}):
        files = sum(damage.mend == mend for damage in found.damages)
        console.print(f"{files} of them: {MENDS[mend]}", markup=False, soft_wrap=True)
    console.print(f"next: {_repair(cache, found)}", markup=False, soft_wrap=True)


def _repair(cache: Path, found: "Verification") -> str:
    """The command that mends it."""
    mends = {damage.mend for damage in found.damages}
    if not mends:
        return ""
    if found.format == 1:
        return "d2st cache build MANIFEST --cache NEW (a store of format 1 can only be read)"
    if mends == {"manifest"}:
        return f"d2st cache build MANIFEST --cache {shlex.quote(str(cache))}"
    return f"d2st cache repair {shlex.quote(str(cache))}" + (" --root DIR" if "crop" in mends else "")


def with_samples(samples: Sequence[str]) -> str:
    """How many, and the first few."""
    more = ", ..." if len(samples) > SAMPLES_SHOWN else ""
    return f"{len(samples)}" + (f" ({', '.join(samples[:SAMPLES_SHOWN])}{more})" if samples else "")


def damage_table(title: str, damages: "Sequence[Damage]") -> Any:
    """The first damages as a table: file, what is wrong with it, samples hit."""
    from d2st.cache.verify import KINDS
    from d2st.cli.show import table

    rows = [
        (damage.file, KINDS[damage.kind] + (f": {damage.detail}" if damage.detail else ""), with_samples(damage.samples))
        for damage in damages[:ROWS_SHOWN]
    ]
    return table(title, ("file", "what is wrong", "samples hit"), rows)
