"""TensorBoard: event files in the stage's own folder, so that `tensorboard --logdir runs` shows every run side by side.

Written by `torch.utils.tensorboard` (docs.pytorch.org/docs/stable/tensorboard.html). A resumed stage adds a file to the folder.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d2st.adapter.train.track.memory import Memory
from d2st.adapter.train.track.protocol import Outcome, Point, Stage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["open_tracker"]

FOLDER = "tensorboard"


def open_tracker(stage: Stage) -> "_TensorBoard":
    """Event files in runs/NAME/stageN/tensorboard; the recipe goes to the page "text", and the result to "hparams"."""
    from torch.utils.tensorboard import SummaryWriter

    folder = stage.folder / FOLDER
    begins = not folder.is_dir()
    writer = SummaryWriter(str(folder))
    if begins:
        lines = "\n".join(f"    {name} = {value}" for name, value in stage.settings.items())  # four spaces: Markdown for code
        writer.add_text("settings", lines, 0)
    memory = Memory(stage.folder / "tensorboard.json")
    return _TensorBoard(writer, memory, stage, view=f"tensorboard --logdir {stage.folder.parents[1]}")


class _TensorBoard:
    def __init__(self, writer: "SummaryWriter", memory: Memory, stage: Stage, *, view: str) -> None:
        self.view = view
        self._writer, self._memory, self._settings = writer, memory, stage.settings
        self._step = stage.step

    def log(self, points: Sequence[Point]) -> None:
        for point in self._memory.new(points):
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.time_s)
            self._step = point.step
        self._writer.flush()  # raises what went wrong with an earlier record, such as a full disk

    def close(self, outcome: Outcome, result: Mapping[str, Any]) -> None:
        if outcome == "finished":
            from torch.utils.tensorboard.summary import hparams

            numbers = {f"result/{name}": value for name, value in result.items() if isinstance(value, int | float)}
            settings = {name: _plain(value) for name, value in self._settings.items()}
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, self._step)
            for summary in hparams(settings, numbers):
                self._writer.file_writer.add_summary(summary)
            self._writer.flush()
        self._writer.close()


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
