"""What `d2st train` shows, on stderr: a live bar for each stage in a terminal, a line an epoch elsewhere; and the table at the end."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from d2st.adapter.train import StageResult

__all__ = ["metric_name", "results_table", "resume_command", "show_training"]


@contextmanager
def show_training(*, quiet: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show what `run_training` tells: a live bar for each stage in a terminal, a line an epoch elsewhere, nothing if `quiet`.

    Yields:
        The function to pass as `on_event`.
    """
    from d2st.cli.show import stderr

    console = stderr()
    if quiet:
        yield lambda event: None
    elif console.is_terminal:
        with _live(console) as show:
            yield show
    else:
        yield lambda event: _print_line(console, event)


def _print_line(console: "Console", event: dict[str, Any]) -> None:
    line = _line(event)
    if line:
        console.print(line, markup=False, soft_wrap=True)


def _line(event: dict[str, Any]) -> str:
    """One line for people, or "" for events that are not worth one."""
    if event["event"] == "note":
        return event["message"]
    if event["event"] == "start":
        source = f"from {event['init']}" if event["init"] else "from scratch"
        done = f", {event['done_epochs']} epochs done" if event["done_epochs"] else ""
        done += f"; shared by {event['ranks']} processes" if event["ranks"] > 1 else ""
        size = f"{event['parameters']:,} trainable parameters, {event['gflops']:.3g} GFLOP a clip"
        return (
            f"stage {event['stage']}: {event['adapter']}, {size}, {source}; {event['train_samples']} training and "
            f"{event['val_samples']} validation samples; best by validation {metric_name(event['metric'])}{done}"
        )
    if event["event"] == "epoch":
        from d2st.adapter.train.log import epoch_line

        return epoch_line(event)
    return ""


@contextmanager
def _live(console: "Console") -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console) as progress:
        state: dict[str, Any] = {"val": ""}

        def show(event: dict[str, Any]) -> None:
            kind = event["event"]
            if kind == "start":
                total = event["steps"] * event["epochs"]
                done = event["done_epochs"] * event["steps"] + event["done_steps"]
                console.print(_line(event), markup=False)
                state.update(task=progress.add_task(f"stage {event['stage']}", total=total, completed=done, facts=""), val="")
            elif kind == "step":
                facts = f"loss {event['loss']:.3f}{state['val']}  {event['samples_per_s']:.0f} samples/s"
                label = (
                    f"stage {event['stage']}  epoch {event['epoch']}/{event['epochs']}  step {event['step']}/{event['steps']}"
                )
                done = (event["epoch"] - 1) * event["steps"] + event["step"]
                progress.update(state["task"], description=label, completed=done, facts=facts)
            elif kind == "epoch":
                state["val"] = f"  val AUC {event['val'][event['metric']]:.3f}  best {event['best']:.3f}"
            elif kind == "end":
                facts = f"best {metric_name(event['metric'])} {event['value']:.3f} in epoch {event['best_epoch']}"
                progress.update(state["task"], description=f"stage {event['stage']}", total=1, completed=1, facts=facts)
            elif kind == "note":
                console.print(event["message"], markup=False)

        yield show


def metric_name(name: str) -> str:
    """video_auc -> video AUC."""
    return name.replace("_", " ").replace("auc", "AUC")


def resume_command(asked: Mapping[str, Any], *, ranks: int, in_memory: bool) -> str:
    """The command that goes on with a stopped run: all that was asked for, since a stage that has not begun has no recipe of its own.

    Args:
        asked: option -> its value, or the list of them; None where it was not given. ranks: processes that train.
    """
    given = {key: value if isinstance(value, list) else [value] for key, value in asked.items() if value is not None}
    words = [str(word) for key, values in given.items() for value in values for word in (f"--{key}", value)]
    start = ["d2st"] if ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks), "-m", "d2st"]
    return shlex.join([*start, "train", *words, *(["--in-memory"] if in_memory else []), "--resume"])


def results_table(folder: str, results: "list[StageResult]") -> "Table":
    """What each stage came to, a row each."""
    from d2st.cli.show import human_time, table

    columns = ("stage", "adapter", "samples", "parameters", "best epoch", "val AUC", "by", "time", "start")
    rows = [
        (
            result.stage,
            result.adapter,
            f"{result.train_samples} + {result.val_samples}",
            f"{result.parameters:,}",
            f"{result.best_epoch} of {result.epochs}",
            f"{result.value:.4f}",
            metric_name(result.metric).removesuffix("AUC").strip() or "all",
            human_time(result.seconds),
            result.init or "scratch",
        )
        for result in results
    ]
    return table(f"run {folder}", columns, rows, right=("samples", "parameters", "best epoch", "val AUC", "time"))
