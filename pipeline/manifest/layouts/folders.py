"""Class folders: somewhere on the way down, one folder says real or fake.

The first such folder decides. A split folder may stand above or below it, and the first other folder below it names the method.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.clips import clips_of, is_video
from d2st.pipeline.manifest.schema import FAKE, REAL
from d2st.pipeline.manifest.walk import Ignored, walk

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


class _Said(NamedTuple):
    label: int
    method: str
    split: str | None
    below: int  # how many folders of the path come after the class folder, splits left out


def _read(parts: tuple[str, ...]) -> _Said | None:
    """What the folders of one path say; None when none of them is a class folder."""
    names = [part.casefold() for part in parts]
    at = next((index for index, name in enumerate(names) if name in CLASS_NAMES), None)
    if at is None:
        return None
    label = CLASS_NAMES[names[at]]
    split = next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), None)
    below = [part for part in parts[at + 1 :] if part.casefold() not in SPLIT_NAMES]
    return _Said(label, _method(label, below), split, len(below))


def _method(label: int, below: Sequence[str]) -> str:
    if label == REAL:
        return "real"
    # "real" is the method of real samples alone
    return below[0] if below and below[0].casefold() != "real" else "unknown"


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    for folder in walk(place.root, ignored):
        said = _read(folder.parts)
        if said is None:
            ignored.unplaced["/".join(folder.parts) or "."] += len(folder.files)
            continue
        # the class or split folder itself is a collection, never one video
        inside = said.below > 0 and folder.parts[-1].casefold() not in SPLIT_NAMES
        video = inside and is_video(folder, frames_folders=place.frames_folders)
        if video and said.label == FAKE and said.below == 1:
            said = said._replace(method="unknown")  # that folder is the video, not the method
        for clip in clips_of(folder, video=video, frames_folders=place.frames_folders):
            yield Found(clip.path, clip.kind, said.label, said.method, said.split, clip.group, clip.size, clip.frames)


FOLDERS = Layout(key="folders", name="class folders", expects=EXPECTS, matches=Path.is_dir, find=_find)
