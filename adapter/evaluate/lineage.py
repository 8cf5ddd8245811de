"""What a checkpoint has learnt from: the stages that its weights came through, in its own run and in others, by what training recorded.

A stage 2 without a stage 1 of its own starts from that of another run, and then has seen what that one saw. Apart from what loads
checkpoints, so that reports can ask without torch.
"""

import json
from pathlib import Path

__all__ = ["RECORD", "lineage"]

RECORD = "samples.parquet"  # of a stage: the samples that it was trained on and chosen by
ABOVE = 3  # folders above a run in which another is looked for: trials of a sweep lie two below the runs


def lineage(folder: Path) -> tuple[list[Path], bool]:
    """A stage's folder and those of the stages before it that left a `RECORD`, newest first, and whether these are all back to random
    weights.

    fingerprint.json names the start of a stage as RUN/stageN. Where it names none, the stages before it in its own run are taken.
    """
    at, found = folder.resolve(), list[Path]()
    start: str | None = ""
    while start is not None and at not in found:
        found.append(at)
        try:
            start = json.loads((at / "fingerprint.json").read_text(encoding="utf-8"))["init"]
        except (OSError, ValueError, KeyError):
            number = at.name.removeprefix("stage")
            found += [at.parent / f"stage{earlier}" for earlier in range(int(number) - 1 if number.isdecimal() else 0, 0, -1)]
            kept = [stage for stage in found if (stage / RECORD).is_file()]
            return kept, bool(kept)
        if start is not None:
            homes = list(at.parents)[1 : 1 + ABOVE]
            places = [home / start for home in homes if start.count("/") == 1]
            at = next((place for place in places if (place / RECORD).is_file()), at)
    kept = [stage for stage in found if (stage / RECORD).is_file()]
    return kept, start is None and kept == found
