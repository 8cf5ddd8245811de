"""What every command shows alike: data on stdout, progress and errors on stderr, `--json` as one document on stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from d2st.cache.errors import D2stError

__all__ = ["human_bytes", "human_time", "print_error", "print_json", "stderr", "stdout", "table"]


def stdout() -> "Console":
    from rich.console import Console

    # a pipe has no width: keep rows on one line there
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_error(error: "D2stError") -> None:
    """Two lines on stderr: what is wrong and where, then how to mend it."""
    console = stderr()
    console.print(f"error: {error.message}", style="red", markup=False, soft_wrap=True)
    if error.fix:
        console.print(f"  fix: {error.fix}", markup=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print one JSON document; NaN, which JSON lacks, becomes null."""
    escaped = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    sys.stdout.write(json.dumps(_finite(document), indent=2, ensure_ascii=escaped, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> "Table":
    """A Rich table of plain text (no markup is read); the columns named in `right` are numbers and stand to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_time(seconds: float) -> str:
    """75 -> '1m15s'."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
