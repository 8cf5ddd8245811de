"""What the commands that make shards share: `--shard i/n`, and the table that shows what they did."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from d2st.pipeline.build.report import BuildReport

__all__ = ["ShardPart", "parse_part", "show_work"]

ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Make the I-th of N equal parts alone, and wait for nobody (without it builders share by themselves).",
    ),
]


def parse_part(text: str | None) -> tuple[int, int] | None:
    """ "2/4" -> (2, 4). Raises BadParameter, wrong usage, for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"{text}: say which part of how many, such as 1/4", param_hint="--shard")
    return int(found[1]), int(found[2])


def show_work(report: "BuildReport", console: "Console") -> None:
    """How the stages were used, what to buy, and how much of the store is there."""
    from d2st.cli.show import human_time, table

    if report.built_crops or report.built_tokens:
        rows = [(use.stage, f"{use.busy:.0%}", f"{use.alone_per_s:.1f}") for use in report.stages]
        if rows:  # there are none where no sample could be used
            columns = ("stage", "busy", "alone, frames/s")
            console.print(table("how the stages were used", columns, rows, right=columns[1:]))
        made = f"built {report.built_crops} shards of crops and {report.built_tokens} of token maps in {human_time(report.seconds)}"
        console.print(f"{made}. {report.advice}".rstrip(), soft_wrap=True)
    elif report.shards == report.planned_shards:
        console.print("everything was cached already: nothing to do")
    if report.clamped:
        console.print(
            f"{report.clamped} values of the token maps lay beyond ±65,504 and were set to that limit: --dtype bfloat16 holds them",
            soft_wrap=True,
        )
    if report.statistics:
        console.print(f"splits have changed: channel statistics of {report.statistics} shards were computed anew")
    if report.shards < report.planned_shards:
        console.print(
            f"{report.shards} of {report.planned_shards} shards of the store are there; build the others before training"
        )
