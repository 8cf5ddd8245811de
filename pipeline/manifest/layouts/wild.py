"""WildDeepfake (Zi et al., ACM MM 2020) and sets like it: folders real_train, fake_test and so on, with frame folders somewhere below."""

import re
from collections.abc import Iterator
from pathlib import Path

from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.clips import clips_of, is_video
from d2st.pipeline.manifest.layouts.folders import SPLIT_NAMES
from d2st.pipeline.manifest.schema import FAKE, REAL
from d2st.pipeline.manifest.walk import Ignored, walk

__all__ = ["WILD"]

EXPECTS = """\
ROOT/real_train/1/real/12/0.png, 1.png        a folder of images is one video
ROOT/fake_test/7/fake/3/0.png, 1.png          real|fake _ train|val|test, in any order"""

_TOP = re.compile(r"(?:(real|fake)_(\w+)|(\w+)_(real|fake))", re.IGNORECASE)


def _read(name: str) -> tuple[int, str] | None:
    """Label and split that a folder's name tells: real_train, test_fake."""
    match = _TOP.fullmatch(name)
    if match is None:
        return None
    word, split = (match[1] or match[4]).casefold(), SPLIT_NAMES.get((match[2] or match[3]).casefold())
    return None if split is None else (REAL if word == "real" else FAKE, split)


def _matches(source: Path) -> bool:
    return source.is_dir() and sum(_read(entry.name) is not None for entry in source.iterdir() if entry.is_dir()) >= 2


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    for folder in walk(place.root, ignored):
        said = _read(folder.parts[0]) if folder.parts else None
        if said is None:
            ignored.unplaced["/".join(folder.parts) or "."] += len(folder.files)
            continue
        label, split = said
        frames_folders = "always" if place.frames_folders == "auto" else place.frames_folders  # its frames have no common names
        video = len(folder.parts) > 1 and is_video(folder, frames_folders=frames_folders)
        for clip in clips_of(folder, video=video, frames_folders=frames_folders):
            method = "unknown" if label == FAKE else "real"
            yield Found(clip.path, clip.kind, label, method, split, clip.group, clip.size, clip.frames)


WILD = Layout(key="wild", name="WildDeepfake", expects=EXPECTS, matches=_matches, find=_find)
