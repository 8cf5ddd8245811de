"""What a dataset layout is: it recognises a tree, and reads label, method and split of each sample off its paths.

A layout never opens a media file. A new one is a module with a `Layout`, and its name in `layouts/__init__.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from d2st.pipeline.manifest.walk import Folder, Ignored

__all__ = ["FRAMES_FOLDERS", "Found", "Layout"]

FRAMES_FOLDERS = ("auto", "always", "never")


class Found(NamedTuple):
    """One sample as a layout sees it."""

    path: str  # posix, relative to the root; a folder for kind "frames"
    kind: str
    label: int
    method: str
    split: str | None  # None: the tree does not say
    group: str  # the path that names the video-level group
    size: int  # bytes; of a frame folder, all frames together; -1 unknown
    frames: int | None = None  # known without opening anything for frame folders only
    identities: tuple[str, ...] | None = None  # None: the layout does not know
    compression: str | None = None


@dataclass(frozen=True)
class Layout:
    """A kind of tree.

    name: short name, shown after a scan.
    expects: the tree as a drawing, for the message when nothing was recognised.
    matches: (root) -> whether this layout is worth trying; reads names only.
    find: (root, folders, frames_folders, ignored) -> samples. `frames_folders` is one of FRAMES_FOLDERS;
        media files that are no sample are counted in `ignored.unplaced`.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    find: Callable[[Path, Iterable[Folder], str, Ignored], Iterator[Found]]
