"""What `d2st sweep` shows, on stderr: a live table of the trials in a terminal; elsewhere a line for each trial that ends and, now and
then, one of how far all of it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from d2st.cli.show import stderr
from d2st.cli.sweep_board import Board, sparkline

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

__all__ = ["show_sweep"]

PLAIN_LINE_S = 10.0


@contextmanager
def show_sweep() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show what `run_sweep` tells. Yields the function to pass as `on_event`."""
    console, board = stderr(), Board()
    if console.is_terminal:
        with _live(console, board) as show:
            yield show
        return
    said = [monotonic()]

    def line(event: dict[str, Any]) -> None:
        message = board.hear(event)
        if message:
            console.print(message, markup=False, soft_wrap=True)
        if event["event"] in ("epoch", "pass") and monotonic() - said[0] > PLAIN_LINE_S:
            said[0] = monotonic()
            console.print(f"{board.counts()}; {board.pace()}", markup=False, soft_wrap=True)

    yield line


@contextmanager
def _live(console: "Console", board: Board) -> Iterator[Callable[[dict[str, Any]], None]]:
    from threading import Lock

    from rich.live import Live

    lock = Lock()  # the picture is drawn by a thread of its own

    def picture() -> "Group":
        with lock:
            return _picture(board, console)

    with Live(console=console, refresh_per_second=4, get_renderable=picture, transient=True) as live:

        def show(event: dict[str, Any]) -> None:
            with lock:
                message = board.hear(event)
            if message and (event["event"] != "ended" or "best so far" in message or "failed" in message):
                live.console.print(message, markup=False, highlight=False)

        yield show


def _picture(board: Board, console: "Console") -> "Group":
    from rich.console import Group
    from rich.text import Text

    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in (board.counts(), board.pace())]
    return Group(*([_table(board, rows=max(3, console.height - 8))] if board.running else []), *lines)


def _table(board: Board, *, rows: int) -> "Table":
    """The trials that run, the best first, as many as the terminal has room for."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", padding=(0, 1), expand=True)
    for name in ("trial", "epoch", "step", "loss", "AUC", "best"):
        made.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    made.add_column("course", no_wrap=True, overflow="crop", max_width=12)
    made.add_column("drawn", no_wrap=True, overflow="ellipsis", ratio=1)
    order = sorted(board.running.values(), key=lambda entry: -(entry.best or 0.0))
    for entry in order[:rows]:
        cells = (
            entry.name.removeprefix("trial "),
            f"{entry.epoch}/{entry.epochs}",
            f"{entry.step}/{entry.steps}",
            "" if entry.loss is None else f"{entry.loss:.3f}",
            f"{entry.course[-1]:.4f}" if entry.course else "",
            "" if entry.best is None else f"{entry.best:.4f}",
            sparkline(entry.course, width=12),
            entry.about,
        )
        made.add_row(*map(Text, cells))
    if len(order) > rows:
        made.add_row(Text(f"+{len(order) - rows}"), *[Text("")] * 7)
    return made
