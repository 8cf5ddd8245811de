"""Progress on stderr: a live bar with throughput and time left in a terminal, a plain line every few seconds elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from d2st.cli.show import human_time, stderr

__all__ = ["phases"]

PLAIN_LINE_S = 10.0


@contextmanager
def phases(labels: Mapping[str, tuple[str, str]], *, quiet: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show phases, which may run side by side; their totals may change on the way.

    Args:
        labels: phase -> (what the bar says, the unit it counts).
        quiet: show nothing.

    Yields:
        A function of (phase, done, total); its first call for a phase, with done = 0, starts the clock. A phase of nothing is not shown. A
        total of None is one that nobody knows.
    """
    console = stderr()
    if quiet:
        yield lambda phase, done, total: None
    elif console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            tasks: dict[str, int] = {}
            begun: dict[str, float] = {}

            def update(phase: str, done: int, total: int | None) -> None:
                label, unit = labels[phase]
                if phase not in tasks:
                    if total == 0:
                        return
                    tasks[phase] = progress.add_task(label, total=total, rate="")
                    begun[phase] = perf_counter()
                seconds = max(perf_counter() - begun[phase], 1e-9)
                progress.update(tasks[phase], completed=done, total=total, rate=f"{done / seconds:.1f} {unit}/s")

            yield update
    else:
        begun = {}
        shown: dict[str, float] = {}

        def line(phase: str, done: int, total: int | None) -> None:
            label, unit = labels[phase]
            now = perf_counter()
            begun.setdefault(phase, now)
            if not done or (done != total and now - shown.get(phase, begun[phase]) < PLAIN_LINE_S):
                return
            shown[phase] = now
            rate = done / max(now - begun[phase], 1e-9)
            left = f", {human_time((total - done) / rate)} left" if total is not None and done < total and rate else ""
            count = f"{done}" if total is None else f"{done}/{total}"
            console.print(f"{label}: {count} {unit}, {rate:.1f} {unit}/s{left}", markup=False)

        yield line
