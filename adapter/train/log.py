"""What a stage writes down while it runs: `metrics.jsonl`, a line an epoch for programs, and `log.txt`, the same for people."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from d2st.cache.files import write_atomic

__all__ = ["RunLog", "epoch_line"]


class RunLog:
    """The two logs in one stage's folder."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._text = folder / "metrics.jsonl", folder / "log.txt"

    def keep_epochs(self, epochs: int) -> None:
        """Drop lines of epochs after number `epochs`, which a resumed run will do again."""
        if self._metrics.is_file():
            lines = [line for line in self._metrics.read_text().splitlines() if json.loads(line)["epoch"] <= epochs]
            write_atomic(self._metrics, "".join(f"{line}\n" for line in lines).encode())

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, sort_keys=True) + "\n")
        self.say(epoch_line(record))

    def say(self, message: str) -> None:
        """Append a line with the time to log.txt."""
        with self._text.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(sep=' ', timespec='seconds')}  {message}\n")


def epoch_line(record: Mapping[str, Any]) -> str:
    """An epoch's record as one line for people."""
    value, name = record["val"][record["metric"]], record["metric"].replace("_", " ").replace("auc", "AUC")
    star = " (best)" if record["best_epoch"] == record["epoch"] else ""
    return (
        f"stage {record['stage']} epoch {record['epoch']}/{record['epochs']}: loss {record['loss']:.4f}, "
        f"val {name} {value:.4f}{star}, {record['samples_per_s']:.0f} samples/s, {record['seconds']:.1f} s"
    )
