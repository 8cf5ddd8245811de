"""The Deepfake Detection Challenge (Dolhansky et al., arXiv 2006.07397): folders of videos with a metadata.json, a test set with
labels.csv; and its preview (arXiv 1910.08854) with one dataset.json.

A fake names the `original` that it was made from, and both are one leakage group. The training parts come without a validation split, so
those are split by that group; who wants them whole gives --split train.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.clips import clips_of, is_video
from d2st.pipeline.manifest.schema import FAKE, REAL
from d2st.pipeline.manifest.walk import Ignored, walk

__all__ = ["DFDC", "DFDC_PREVIEW"]

LABELS = {"REAL": REAL, "FAKE": FAKE, "0": REAL, "1": FAKE}

DFDC_EXPECTS = """\
ROOT/dfdc_train_part_0/metadata.json          {"x.mp4": {"label": "FAKE", "split": "train", "original": "y.mp4"}}
ROOT/dfdc_train_part_0/x.mp4, y.mp4
ROOT/test/labels.csv, ROOT/test/videos/z.mp4  filename,label: the test split"""

PREVIEW_EXPECTS = """\
ROOT/dataset.json                             {"method_A/1/x.mp4": {"label": "fake", "set": "train", "target_id": 1, "swapped_id": 2}}
ROOT/method_A/1/x.mp4, ROOT/original_videos/..."""


def _matches(source: Path) -> bool:
    if not source.is_dir():
        return False
    folders = [source, *(entry for entry in source.iterdir() if entry.is_dir())]
    return any((folder / "metadata.json").is_file() or (folder / "labels.csv").is_file() for folder in folders)


def read_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """File stem -> {label, original, split} of a folder's metadata.json or labels.csv (the latter: test); empty without. ManifestError."""
    if (file := folder / "labels.csv").is_file():
        try:
            with _readable(file).open(newline="", encoding="utf-8-sig") as stream:
                rows = list(csv.DictReader(stream))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"{file} is not a table of text: {error}", fix="Restore the published file") from error
        if rows and not {"filename", "label"} <= rows[0].keys():
            raise ManifestError(f"{file} has columns {', '.join(rows[0])}", fix="It needs filename and label")
        return {
            Path(row["filename"]).stem: {
                "label": _label(row["label"], file, row["filename"]),
                "original": None,
                "split": "test",
            }
            for row in rows
        }
    if not (file := folder / "metadata.json").is_file():
        return {}
    listed = _json(file)
    return {
        Path(name).stem: {
            "label": _label(entry.get("label"), file, name),
            "original": Path(str(entry["original"])).stem if entry.get("original") else None,
            "split": None if entry.get("split") in (None, "train") else _split(entry["split"], file),
        }
        for name, entry in listed.items()
    }


def _find_dfdc(place: Place, ignored: Ignored) -> Iterator[Found]:
    unseen: set[str] = set()
    known: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for folder in walk(place.root, ignored):
        home = next(
            (
                folder.parts[:n]
                for n in range(len(folder.parts), -1, -1)
                if _entries(place.root, folder.parts[:n], known, unseen)
            ),
            None,
        )
        entries = known.get(home, {}) if home is not None else {}
        video = bool(folder.parts) and folder.parts[-1] in entries and is_video(folder, frames_folders=place.frames_folders)
        for clip in clips_of(folder, video=video, frames_folders=place.frames_folders):
            name = clip.group.rpartition("/")[2]
            entry = entries.get(name)
            if entry is None:
                ignored.unplaced["/".join(folder.parts) or "."] += 1
                continue
            unseen.discard("/".join((*(home or ()), name)))
            yield Found(
                path=clip.path,
                kind=clip.kind,
                label=entry["label"],
                method="DFDC" if entry["label"] == FAKE else "real",
                split=entry["split"],
                group=clip.group,
                size=clip.size,
                frames=clip.frames,
                identities=(entry["original"] or name,),
            )
    ignored.missing.extend(sorted(unseen))


def _entries(
    root: Path, parts: tuple[str, ...], known: dict[tuple[str, ...], dict[str, dict[str, Any]]], unseen: set[str]
) -> dict[str, dict[str, Any]]:
    if parts not in known:
        known[parts] = read_metadata(root.joinpath(*parts))
        unseen.update("/".join((*parts, name)) for name in known[parts])
    return known[parts]


def _find_preview(place: Place, ignored: Ignored) -> Iterator[Found]:
    file = place.root / "dataset.json"
    listed = {name.replace("\\", "/").rpartition(".")[0]: entry for name, entry in _json(file).items()}
    unseen = set(listed)
    for folder in walk(place.root, ignored):
        where = "/".join(folder.parts)
        video = where in listed and is_video(folder, frames_folders=place.frames_folders)
        for clip in clips_of(folder, video=video, frames_folders=place.frames_folders):
            entry = listed.get(clip.group)
            if entry is None:
                ignored.unplaced[where or "."] += 1
                continue
            unseen.discard(clip.group)
            label = _label(entry.get("label"), file, clip.group)
            people = tuple(str(entry[key]) for key in ("target_id", "swapped_id") if entry.get(key) is not None)
            yield Found(
                path=clip.path,
                kind=clip.kind,
                label=label,
                method=folder.parts[0] if label == FAKE else "real",
                split=None if entry.get("set") is None else _split(entry["set"], file),
                group=clip.group,
                size=clip.size,
                frames=clip.frames,
                identities=people or None,
            )
    ignored.missing.extend(sorted(unseen))


def _label(value: Any, file: Path, name: str) -> int:
    label = LABELS.get(str(value).upper())
    if label is None:
        raise ManifestError(f"{file}: {name} has the label {value!r}", fix="Labels are REAL and FAKE (0 and 1 in labels.csv)")
    return label


def _split(value: Any, file: Path) -> str:
    names = {"train": "train", "validation": "val", "val": "val", "test": "test"}
    if str(value) not in names:
        raise ManifestError(f"{file} knows a split {value!r}", fix=f"Splits are {', '.join(names)}")
    return names[value]


def _json(file: Path) -> Mapping[str, dict[str, Any]]:
    try:
        listed = json.loads(_readable(file).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ManifestError(f"{file} is not JSON: {error}", fix="Restore the published file") from error
    if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()):
        raise ManifestError(f"{file} does not map file names to their metadata", fix="Restore the published file")
    return listed


def _readable(file: Path) -> Path:
    try:
        file.open("rb").close()
    except OSError as error:
        raise ManifestError(f"can't read {file}: {error.strerror}", fix="Restore the published file, readable") from error
    return file


DFDC = Layout(key="dfdc", name="DFDC", expects=DFDC_EXPECTS, matches=_matches, find=_find_dfdc)
DFDC_PREVIEW = Layout(
    key="dfdc-preview",
    name="DFDC preview",
    expects=PREVIEW_EXPECTS,
    matches=lambda source: (source / "dataset.json").is_file(),
    find=_find_preview,
)
