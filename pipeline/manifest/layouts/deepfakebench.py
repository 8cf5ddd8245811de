"""The JSON lists of DeepfakeBench (Yan et al., NeurIPS 2023) and DF40: data set -> label -> split -> [compression ->] video -> frames.

Paths in the published lists come with forward or Windows separators, a leading slash, or a prefix of another machine: what stands before
the part that exists under the media folder is dropped. A list may name some of a folder's frames only; then only these are read. Video
groups are whole paths, since several manipulations share folder names. Where val repeats test, as in most lists, test keeps the video.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.celebdf import celeb_people
from d2st.pipeline.manifest.layouts.ffpp import ffpp_people
from d2st.pipeline.manifest.schema import FAKE, REAL, SPLITS
from d2st.pipeline.manifest.walk import Ignored, media_kind

__all__ = ["DEEPFAKEBENCH", "METHODS"]

METHODS = {"FF-DF": "Deepfakes", "FF-F2F": "Face2Face", "FF-FS": "FaceSwap", "FF-NT": "NeuralTextures", "FF-SH": "FaceShifter"}

EXPECTS = """\
LIST.json (and --root MEDIA, if the paths do not start beside it)
{"FaceForensics++": {"FF-DF": {"train": {"c23": {"071_054": {"label": "FF-DF", "frames": ["...png", ...]}}}}}}"""


class _Video(NamedTuple):
    dataset: str
    split: str
    compression: str | None
    name: str
    label: str
    frames: tuple[str, ...]


def read_list(file: Path) -> list[_Video]:
    """The videos of a list, test before val before train. Raises ManifestError for another structure, naming the place."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"can't read {file} as JSON: {error}", fix="Name a DeepfakeBench list, or a folder") from error
    videos = []
    for dataset, labels in _items(tree, file, "the list"):
        for group, splits in _items(labels, file, dataset):
            for split, content in _items(splits, file, f"{dataset} / {group}"):
                if split not in SPLITS:
                    raise ManifestError(
                        f"{file}: {dataset} / {group} has a split {split!r}", fix=f"Splits are {', '.join(SPLITS)}"
                    )
                where = f"{dataset} / {group} / {split}"
                for name, entry in _items(content, file, where):
                    here = f"{file}: {where} / {name}"
                    if "frames" in entry:
                        videos.append(_video(dataset, split, None, name, entry, here))
                        continue
                    inner = _items(entry, file, f"{where} / {name}")  # a level of compressions
                    videos += [_video(dataset, split, name, video, item, f"{here} / {video}") for video, item in inner]
    return sorted(videos, key=lambda video: -SPLITS.index(video.split))


def _items(tree: Any, file: Path, where: str) -> Sequence[tuple[str, dict[str, Any]]]:
    if not isinstance(tree, dict) or not all(isinstance(item, dict) for item in tree.values()):
        raise ManifestError(
            f"{file}: {where} is not what DeepfakeBench writes",
            fix="data set -> label -> split -> [compression ->] video -> frames",
        )
    return list(tree.items())


def _video(dataset: str, split: str, compression: str | None, name: str, entry: Mapping[str, Any], where: str) -> _Video:
    frames, label = entry.get("frames", []), entry.get("label")
    if not isinstance(frames, list) or not isinstance(label, str) or not re.search("[^\\W\\d]", label):
        raise ManifestError(
            f"{where} does not have the frames and the label of a video",
            fix='{"label": "DFDC_Fake", "frames": ["...png", ...]}, with a label in words, as DeepfakeBench writes it',
        )
    return _Video(dataset, split, compression, name, label, tuple(str(path).replace("\\", "/") for path in frames))


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    disk = _Disk(place.root)
    taken: set[str] = set()
    for video in read_list(place.source):
        folder = disk.folder_of(video.frames)
        if folder is None:
            # the folder as the list has it: several manipulations and compressions share the names of videos
            named = PurePosixPath(video.frames[0]).parent if video.frames else PurePosixPath(video.dataset, video.name)
            ignored.missing.append(str(named))
            continue
        if folder in taken:
            ignored.aside[f"listed in {video.split} and in another split or group"] += 1
            continue
        taken.add(folder)
        there = disk.images(folder)
        wanted = [PurePosixPath(path).name for path in video.frames]
        names = [name for name in wanted if name in there]
        ignored.missing.extend(f"{folder}/{name}" for name in wanted if name not in there)
        if not names:
            continue
        is_real = _is_real(video.label)
        yield Found(
            path=folder,
            kind="frames",
            label=REAL if is_real else FAKE,
            method="real" if is_real else METHODS.get(video.label, _method(video.label)),
            split=video.split,
            group=folder,
            size=sum(there[name] for name in names),
            frames=len(names),
            identities=_people(video),
            compression=video.compression,
            dataset=video.dataset,
            frame_files=None if len(names) == len(there) else tuple(names),
        )


def _is_real(label: str) -> bool:
    """FF-real, DFDC_Real, Celeb-real: the last word says it. Methods may hold "real" themselves: whichisreal_Fake, of DF40."""
    last = re.split(r"[_\W]+", label.casefold())[-1]
    return "real" in label.casefold() and not last.startswith("fake")


def _method(label: str) -> str:
    stem, _, word = label.rpartition("_")
    return stem if word.casefold().startswith("fake") and stem else label or "unknown"


def _people(video: _Video) -> tuple[str, ...] | None:
    """By the name of the frames' folder: our own lists call a video by its whole path."""
    above = PurePosixPath(video.frames[0]).parts[:-1]
    if not above:
        return None
    if video.dataset.startswith(("FaceForensics", "FF-", "FaceShifter", "DeepFakeDetection")):
        return ffpp_people(above[-1])
    if video.dataset.startswith("Celeb-DF"):
        return celeb_people(above[-3] if len(above) > 2 else "", above[-1])
    return None


class _Disk:
    """What is under the media folder, each folder looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: dict[str, dict[str, int]] = {}
        self._dropped = 0  # leading parts that the last list's path had too many: the next one most likely has them too

    def images(self, folder: str) -> dict[str, int]:
        """Image name -> bytes; empty where there is no such folder."""
        if folder not in self._images:
            try:
                with os.scandir(self._root / folder) as entries:
                    self._images[folder] = {e.name: e.stat().st_size for e in entries if media_kind(e.name) == "image"}
            except OSError:
                self._images[folder] = {}
        return self._images[folder]

    def folder_of(self, frames: Sequence[str]) -> str | None:
        """The folder under the root that holds these frames; None where none does."""
        if not frames:
            return None
        parts = [part for part in PurePosixPath(frames[0]).parts[:-1] if part not in ("/", ".", "..")]
        for dropped in sorted(range(len(parts)), key=lambda n: (n != self._dropped, n)):
            folder = "/".join(parts[dropped:])
            if self.images(folder):
                self._dropped = dropped
                return folder
        return None


DEEPFAKEBENCH = Layout(
    key="deepfakebench",
    name="DeepfakeBench",
    expects=EXPECTS,
    matches=lambda source: source.is_file() and source.suffix.lower() == ".json",
    find=_find,
    of_lists=True,
)
