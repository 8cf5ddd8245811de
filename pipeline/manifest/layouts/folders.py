"""Class folders: somewhere on the way down, one folder says real or fake.

The first such folder decides. A split folder may stand above or below it, and the first other folder below it names the method.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from d2st.pipeline.manifest.layouts.base import Found, Layout
from d2st.pipeline.manifest.schema import FAKE, REAL
from d2st.pipeline.manifest.walk import Folder, Ignored, MediaFile

__all__ = ["CLASS_NAMES", "FOLDERS", "SPLIT_NAMES"]

_REAL_NAMES = ("real", "original", "originals", "genuine", "pristine", "live", "0_real")
_FAKE_NAMES = ("fake", "fakes", "manipulated", "synthetic", "deepfake", "1_fake")
CLASS_NAMES = dict.fromkeys(_REAL_NAMES, REAL) | dict.fromkeys(_FAKE_NAMES, FAKE)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

EXPECTS = """\
ROOT/real/...files                          class folders: real, original, genuine, pristine, live, 0_real
ROOT/fake/METHOD/...files                   and fake, manipulated, synthetic, deepfake, 1_fake
ROOT/train/fake/METHOD/...files             splits above the class: train, val, test ...
ROOT/fake/train/METHOD/...files             ... or below it
ROOT/fake/METHOD/VIDEO/000.png, 001.png     a folder of numbered images is one video"""

# 000, 0001, frame_12, frame-12, f12: what frame extractors write
_FRAME_NAME = re.compile(r"(frame|f)?[ _-]?[0-9]+", re.IGNORECASE)


class _Place(NamedTuple):
    label: int
    method: str
    split: str | None
    below: int  # how many folders of the path come after the class folder, splits left out


def _place(parts: tuple[str, ...]) -> _Place | None:
    """What the folders of one path say; None when none of them is a class folder."""
    names = [part.casefold() for part in parts]
    at = next((index for index, name in enumerate(names) if name in CLASS_NAMES), None)
    if at is None:
        return None
    label = CLASS_NAMES[names[at]]
    split = next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), None)
    below = [part for part in parts[at + 1 :] if part.casefold() not in SPLIT_NAMES]
    return _Place(label, _method(label, below), split, len(below))


def _method(label: int, below: Sequence[str]) -> str:
    if label == REAL:
        return "real"
    # "real" is the method of real samples alone
    return below[0] if below and below[0].casefold() != "real" else "unknown"


def _is_video(folder: Folder, *, named_by: bool) -> bool:
    """Whether a folder's files are the frames of one video; `named_by` asks that their names be numbers."""
    if not folder.leaf or any(file.kind != "image" for file in folder.files):
        return False
    if not named_by:
        return True
    stems = [file.name.rpartition(".")[0] for file in folder.files]
    return len(stems) > 1 and all(_FRAME_NAME.fullmatch(stem) for stem in stems)


def _find(root: Path, folders: Iterable[Folder], frames_folders: str, ignored: Ignored) -> Iterator[Found]:
    for folder in folders:
        place = _place(folder.parts)
        if place is None:
            ignored.unplaced["/".join(folder.parts) or "."] += len(folder.files)
            continue
        # the class or split folder itself is a collection, never one video
        is_video = (
            place.below > 0
            and folder.parts[-1].casefold() not in SPLIT_NAMES
            and _is_video(folder, named_by=frames_folders != "always")
        )
        where = "/".join(folder.parts)
        if is_video and place.label == FAKE and place.below == 1:
            place = place._replace(method="unknown")  # that folder is the video, not the method
        if is_video and frames_folders != "never":
            size = -1 if any(file.size < 0 for file in folder.files) else sum(file.size for file in folder.files)
            yield Found(where, "frames", place.label, place.method, place.split, where, size, len(folder.files))
        else:
            yield from (_single(file, where, place, video=where if is_video else None) for file in folder.files)


def _single(file: MediaFile, where: str, place: _Place, *, video: str | None) -> Found:
    path = f"{where}/{file.name}"
    group = video or path.rpartition(".")[0]
    return Found(path, file.kind, place.label, place.method, place.split, group, file.size)


FOLDERS = Layout(name="class folders", expects=EXPECTS, matches=Path.is_dir, find=_find)
