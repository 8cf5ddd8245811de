"""`d2st report`: one page that shows a run, and what it can't do."""

from pathlib import Path
from typing import Annotated

import typer

from d2st.cli.evaluate import Split
from d2st.cli.show import human_bytes, print_json, stdout

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="runs/NAME, or runs/NAME/stageN.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write.  [default: report-SPLIT.html in RUN]", show_default=False),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which evaluation to show.")] = Split.test,
    cache: Annotated[
        list[Path] | None,
        typer.Option(metavar="STORE", help="Where the pictures are; may be repeated.  [default: the cache it was trained on]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
) -> None:
    """Write one self-contained HTML page of a run, from what `d2st train` and `d2st eval` left.

    Metrics with intervals, ROC and DET curves, calibration, manipulations, training curves, the worst mistakes as pictures with the scores
    of their frames, a table of all samples that filters and sorts, what was dropped and why, and how to repeat the run. It loads nothing
    from anywhere, and can be mailed. Shows the highest stage that was evaluated; pictures need the cache.

    \b
    Examples:
      d2st report runs/faces
      d2st report runs/faces/stage2 --split val --out stage2.html
      d2st report runs/faces --cache /mnt/faces.d2st
    """
    from d2st.adapter.report.page import write_report
    from d2st.cache.store import Store
    from d2st.pipeline.reasons import REASONS

    for store in cache or ():
        Store.open(store)  # one that the run remembers may be gone, one that is named here must be there
    path, record = write_report(run, out=out, split=split.value, caches=cache or (), reasons=REASONS)
    size = path.stat().st_size
    if as_json:
        shown = {"stage": record.shown.number, "evaluated": record.evaluation is not None}
        print_json({"report": str(path), "bytes": size, "run": record.name, "split": record.split, **shown})
        return
    stdout().print(
        f"The report of {record.name}, stage {record.shown.number}, is in {path} ({human_bytes(size)})",
        markup=False,
        soft_wrap=True,
    )
    if record.evaluation is None:
        command = f"d2st eval {record.shown.folder} --split {record.split}"
        stdout().print(f"It shows training alone; for the results run `{command}`", markup=False, soft_wrap=True)
