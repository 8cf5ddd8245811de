"""What a dataset layout is: it recognises a tree or a list, and reads label, method and split of each sample off paths and lists.

A layout never opens a media file. A new one is a module with a `Layout`, and its name in `layouts/__init__.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from d2st.pipeline.manifest.walk import Ignored

__all__ = ["FRAMES_FOLDERS", "Found", "Layout", "Place"]

FRAMES_FOLDERS = ("auto", "always", "never")


class Found(NamedTuple):
    """One sample as a layout sees it."""

    path: str  # posix, relative to the root; a folder for kind "frames"
    kind: str
    label: int
    method: str
    split: str | None  # None: the data set does not say
    group: str  # the path that names the video-level group
    size: int  # bytes; of a frame folder, all frames together; -1 unknown
    frames: int | None = None  # known without opening anything for frame folders only
    identities: tuple[str, ...] | None = None  # None: the layout does not know
    compression: str | None = None
    dataset: str | None = None  # None: the scan's own name
    frame_files: tuple[str, ...] | None = None  # of a frame folder: these files alone; None: all of them
    box: tuple[float, ...] | None = None
    landmarks: tuple[float, ...] | None = None


class Place(NamedTuple):
    """Where a layout looks."""

    root: Path  # the media folder, from which paths count
    source: Path  # what the user named: the root itself, or a list of samples
    frames_folders: str = "auto"  # one of FRAMES_FOLDERS


@dataclass(frozen=True)
class Layout:
    """A kind of tree or list.

    key: what `--layout` calls it. name: for people, shown after a scan.
    expects: the tree as a drawing, for the message when nothing was recognised.
    matches: (source) -> whether this layout is the one; reads names only.
    of_lists: what it reads is a file, not a folder.
    find: (place, ignored) -> samples; what is left aside, and what a list names but the disk lacks, is noted in `ignored`.
    """

    key: str
    name: str
    expects: str
    matches: Callable[[Path], bool]
    find: Callable[[Place, Ignored], Iterator[Found]]
    of_lists: bool = False
