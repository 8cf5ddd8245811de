"""FaceForensics++ (Roessler et al., ICCV 2019), with FaceShifter and the DeepFakeDetection videos (DFD) that come in the same tree.

A pair in the published split files stands for both directions; a fake `A_B` shows the face of B on A, so both are its identities. Masks
are videos too, and are no samples. DFD has no published split: the field tests on all of it, and so does this layout.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.clips import clips_of, is_video
from d2st.pipeline.manifest.schema import FAKE, REAL, SPLITS
from d2st.pipeline.manifest.walk import Ignored, walk

__all__ = ["DFD", "FFPP", "ffpp_people"]

DFD = "DeepFakeDetection"
TOPS = {"original_sequences": REAL, "manipulated_sequences": FAKE}
COMPRESSIONS = ("raw", "c0", "c23", "c40")
NO_SAMPLES = ("masks", "models", "landmarks")

EXPECTS = """\
ROOT/original_sequences/youtube/c23/videos/071.mp4            real; actors/ are DFD's
ROOT/manipulated_sequences/Deepfakes/c23/videos/071_054.mp4   fake; also Face2Face, FaceSwap, DeepFakeDetection ...
ROOT/train.json, val.json, test.json                          pairs of ids (or in ROOT/splits)
frames/071_054/0000.png instead of videos/071_054.mp4         extracted frames"""

_ACTORS = re.compile(r"(\d\d)(?:_(\d\d))?__")


def ffpp_people(name: str) -> tuple[str, ...]:
    """Who a video shows or was made from, by its name: 071_054 -> 071, 054; in DFD 01_02__walking -> actor01, actor02."""
    if actors := _ACTORS.match(name):
        return tuple(f"actor{number}" for number in actors.groups() if number)
    return tuple(part for part in name.split("_") if part)


def read_pairs(root: Path) -> dict[str, str]:
    """Id -> split, from train.json, val.json and test.json where they are. Raises ManifestError for files that are not lists of pairs."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        file = next((path for path in (root / f"{split}.json", root / "splits" / f"{split}.json") if path.is_file()), None)
        if file is None:
            continue
        try:
            pairs = json.loads(file.read_text(encoding="utf-8-sig"))
            ids = [str(name) for one, other in pairs for name in (one, other)]
        except (OSError, ValueError, TypeError) as error:
            raise ManifestError(
                f"{file} is not a list of pairs of ids: {error}", fix='It holds [["071", "054"], ...]: restore it'
            ) from error
        for name in ids:
            if splits.setdefault(name, split) != split:
                raise ManifestError(f"{file}: video {name} is in {splits[name]} too", fix="Restore the published split files")
    return splits


def _matches(source: Path) -> bool:
    return any((source / top).is_dir() for top in TOPS)


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    splits = read_pairs(place.root)
    seen: set[str] = set()
    for folder in walk(place.root, ignored):
        top, source, *below = (*folder.parts, "", "")
        if top not in TOPS or not source or any(part.casefold() in NO_SAMPLES for part in below):
            ignored.unplaced["/".join(folder.parts) or "."] += len(folder.files)
            continue
        compression = next((part for part in below if part.casefold() in COMPRESSIONS), None)
        is_dfd = source in ("actors", DFD)
        method = "real" if TOPS[top] == REAL else source
        video = len(folder.parts) > 3 and is_video(folder, frames_folders=place.frames_folders)
        for clip in clips_of(folder, video=video, frames_folders=place.frames_folders):
            name = clip.group.rpartition("/")[2]
            people = ffpp_people(name)
            seen.update(people)
            yield Found(
                path=clip.path,
                kind=clip.kind,
                label=TOPS[top],
                method=method,
                split="test" if is_dfd else _split(people, splits),
                group=clip.group,
                size=clip.size,
                frames=clip.frames,
                identities=people,
                compression=compression,
                dataset=DFD if is_dfd else None,
            )
    ignored.missing.extend(
        f"{top}/.../{name}" for top, name in (("original_sequences", n) for n in sorted(splits.keys() - seen))
    )


def _split(people: tuple[str, ...], splits: Mapping[str, str]) -> str | None:
    """The split of all of them; None where the files name none, or contradict each other."""
    known = {splits.get(name) for name in people}
    return known.pop() if len(known) == 1 else None


FFPP = Layout(key="ffpp", name="FaceForensics++", expects=EXPECTS, matches=_matches, find=_find)
