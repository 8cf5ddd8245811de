"""What a folder of media holds: single files, or the frames of one video. Every layout that walks a tree asks here."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from d2st.pipeline.manifest.walk import Folder

__all__ = ["Clip", "clips_of", "is_video"]

# 000, 0001, frame_12, frame-12, f12: what frame extractors write
_FRAME_NAME = re.compile(r"(frame|f)?[ _-]?[0-9]+", re.IGNORECASE)


class Clip(NamedTuple):
    """One sample as the disk has it; `name` is what names it: a file without its extension, or a frame folder."""

    path: str
    name: str
    kind: str
    group: str
    size: int
    frames: int | None


def is_video(folder: Folder, *, frames_folders: str) -> bool:
    """Whether a folder's files are the frames of one video: a leaf of images, whose names are numbers unless it is "always"."""
    if not folder.leaf or any(file.kind != "image" for file in folder.files):
        return False
    if frames_folders == "always":
        return True
    stems = [file.name.rpartition(".")[0] for file in folder.files]
    return len(stems) > 1 and all(_FRAME_NAME.fullmatch(stem) for stem in stems)


def clips_of(folder: Folder, *, video: bool, frames_folders: str) -> Iterator[Clip]:
    """The samples in a folder; where it is one `video`, that video, or with "never" its images in one group."""
    where = "/".join(folder.parts)
    if video and frames_folders != "never":
        size = -1 if any(file.size < 0 for file in folder.files) else sum(file.size for file in folder.files)
        yield Clip(where, folder.parts[-1], "frames", where, size, len(folder.files))
        return
    for file in folder.files:
        path = f"{where}/{file.name}" if where else file.name
        stem = path.rpartition(".")[0]
        yield Clip(path, stem.rpartition("/")[2], file.kind, where if video else stem, file.size, None)
