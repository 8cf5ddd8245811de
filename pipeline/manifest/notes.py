"""What a scan says about what it saw: counts in words, so that nothing is left aside in silence."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2st.pipeline.manifest.layouts import Found
from d2st.pipeline.manifest.walk import Ignored

__all__ = ["counted", "frames_notes", "ignored_notes", "sight"]

MANY_FRAMES = 5000  # more images than this in one "video" are probably separate pictures
SHOWN = 5


def counted(count: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ignored_notes(ignored: Ignored) -> list[str]:
    """One sentence for each sort of thing that was left aside."""
    notes = []
    if ignored.extensions:
        notes.append(f"Left aside, not media: {_top(ignored.extensions)}.")
    if ignored.unplaced:
        where = f"{counted(ignored.unplaced.total(), 'file')} in {counted(len(ignored.unplaced), 'folder')}"
        such = ", ".join(_first(ignored.unplaced))
        notes.append(f"Left aside, media that the layout has no place for: {where}, such as {such}.")
    if ignored.missing:
        notes.append(f"Listed, but not on the disk: {len(ignored.missing)}, such as {', '.join(ignored.missing[:SHOWN])}.")
    notes += [f"Left aside, {reason}: {count}." for reason, count in sorted(ignored.aside.items())]
    if ignored.folders:
        notes.append(
            f"Left aside, folders that can't be read: {len(ignored.folders)}, such as {', '.join(ignored.folders[:SHOWN])}."
        )
    if ignored.names:
        notes.append(f"Left aside, names that are not valid UTF-8: {ignored.names}. Rename them to have them scanned.")
    return notes


def frames_notes(found: Sequence[Found]) -> list[str]:
    """How many frame folders were taken as videos, with a warning where one looks like a collection."""
    folders = [sample for sample in found if sample.kind == "frames"]
    if not folders:
        return []
    counts = [sample.frames or 0 for sample in folders]
    fewest = "" if min(counts) == max(counts) else f"{min(counts)} to "
    notes = [
        f"{counted(len(folders), 'folder')} of images taken as one video each, of {fewest}{counted(max(counts), 'frame')}."
    ]
    if max(counts) > MANY_FRAMES:
        largest = folders[counts.index(max(counts))]
        notes.append(
            f"{largest.path} holds {max(counts)} images: if they are separate pictures and not one video, scan again with "
            "--frames-folders never."
        )
    return notes


def sight(root: Path, ignored: Ignored) -> str:
    """What stands where a layout was looked for."""
    media = (
        f"{ignored.unplaced.total()} media files, none of them under a folder named real or fake"
        if ignored.unplaced
        else "no media files"
    )
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    more = " ..." if len(folders) > SHOWN else ""
    seen = f"folders {', '.join(folders[:SHOWN])}{more}" if folders else "no folders"
    other = f", other files {_top(ignored.extensions)}" if ignored.extensions else ""
    return f"it has {seen}, {media}{other}"


def _top(counts: Counter[str]) -> str:
    text = ", ".join(f"{name} {count}" for name, count in counts.most_common(SHOWN))
    rest = counts.total() - sum(count for _, count in counts.most_common(SHOWN))
    return f"{text}, others {rest}" if rest else text


def _first(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts)[:SHOWN]
