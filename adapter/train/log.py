"""What a stage writes down while it runs: `metrics.jsonl`, a line an epoch for programs, and `log.txt`, the same for people."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from d2st.cache.files import write_atomic

__all__ = ["RunLog", "epoch_line", "gap_line"]


class RunLog:
    """The two logs in one stage's folder."""

    def __init__(self, folder: Path) -> None:
        self._metrics, self._text = folder / "metrics.jsonl", folder / "log.txt"

    def keep_epochs(self, epochs: int) -> None:
        """Drop lines of epochs after number `epochs`, which a resumed run will do again."""
        if self._metrics.is_file():
            lines = [json.dumps(record, sort_keys=True) for record in self.epochs() if record["epoch"] <= epochs]
            write_atomic(self._metrics, "".join(f"{line}\n" for line in lines).encode())

    def epochs(self) -> list[dict[str, Any]]:
        """The records so far; a last line that was torn by a kill is left out."""
        if not self._metrics.is_file():
            return []
        whole, _, _torn = self._metrics.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

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


def gap_line(*gaps: Mapping[str, float | None] | None) -> str:
    """The modality gap as one line for people: one measurement, or before and after; what is not known is a dash."""

    def course(key: str, digits: int) -> str:
        values = [gap and gap.get(key) for gap in gaps]
        return " -> ".join("-" if value is None else f"{value:.{digits}f}" for value in values)

    return (
        f"modality gap: centroids real {course('centroid_real', 2)}, fake {course('centroid_fake', 2)} spreads; "
        f"probe {course('probe_accuracy', 2)} (0.5 is none); transfer AUC image to video {course('transfer_image_to_video', 3)}, "
        f"video to image {course('transfer_video_to_image', 3)}"
    )
