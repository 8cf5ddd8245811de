"""Celeb-DF v1 and v2 (Li et al., CVPR 2020).

In its list of test videos 1 means real, the other way round from this project. The list splits videos and not people: most of its people
are in the training part too, which `d2st manifest check` says and `d2st manifest split` mends.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.clips import clips_of, is_video
from d2st.pipeline.manifest.schema import FAKE, REAL
from d2st.pipeline.manifest.walk import Ignored, walk

__all__ = ["CELEB_DF", "celeb_people"]

TOPS = {"Celeb-real": REAL, "YouTube-real": REAL, "Celeb-synthesis": FAKE}
LIST = "List_of_testing_videos.txt"

EXPECTS = """\
ROOT/Celeb-real/id0_0000.mp4, ROOT/YouTube-real/00000.mp4     real
ROOT/Celeb-synthesis/id0_id1_0000.mp4                         fake
ROOT/List_of_testing_videos.txt                               the test split; the rest is train"""

_PEOPLE = re.compile(r"id\d+")


def celeb_people(top: str, name: str) -> tuple[str, ...]:
    """Who a video shows or was made from: id0_id1_0000 -> id0, id1; a YouTube video stands for itself."""
    return tuple(_PEOPLE.findall(name)) or (f"{top}/{name}",)


def read_list(root: Path) -> dict[str, int]:
    """Path without extension -> label (0 real, 1 fake) of the test videos; empty where the list is not there. Raises ManifestError."""
    file = root / LIST
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"can't read {file} as text: {error}", fix="Restore the published list") from error
    listed = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        flag, _, path = line.strip().replace("\t", " ").partition(" ")
        if flag not in ("0", "1") or not path:
            raise ManifestError(
                f'{file}, line {number}: {line!r} is not "1 YouTube-real/00170.mp4"', fix="Restore the published list"
            )
        listed[path.strip().replace("\\", "/").rpartition(".")[0]] = REAL if flag == "1" else FAKE
    return listed


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    listed = read_list(place.root)
    unseen = set(listed)
    for folder in walk(place.root, ignored):
        top = folder.parts[0] if folder.parts else ""
        if top not in TOPS:
            ignored.unplaced["/".join(folder.parts) or "."] += len(folder.files)
            continue
        video = len(folder.parts) > 1 and is_video(folder, frames_folders=place.frames_folders)
        for clip in clips_of(folder, video=video, frames_folders=place.frames_folders):
            name = clip.group.rpartition("/")[2]
            key = f"{top}/{name}"
            unseen.discard(key)
            if listed.get(key, TOPS[top]) != TOPS[top]:
                raise ManifestError(f"{LIST} gives {key} the other label than its folder", fix="Restore the published list")
            split = ("test" if key in listed else "train") if listed else None
            yield Found(
                path=clip.path,
                kind=clip.kind,
                label=TOPS[top],
                method="Celeb-synthesis" if TOPS[top] == FAKE else "real",
                split=split,
                group=clip.group,
                size=clip.size,
                frames=clip.frames,
                identities=celeb_people(top, name),
            )
    ignored.missing.extend(sorted(unseen))


CELEB_DF = Layout(
    key="celeb-df",
    name="Celeb-DF",
    expects=EXPECTS,
    matches=lambda source: sum((source / top).is_dir() for top in TOPS) >= 2 or (source / LIST).is_file(),
    find=_find,
)
