"""A folder of media in, a manifest out. Reads names and sizes; opens a file only to compare it with another of the same size.

Everything the scan decided by itself (splits, identities, what it left aside) comes back as notes, for a user to read and overrule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from d2st.cache.errors import ConfigError, ManifestError, UsageError
from d2st.pipeline.manifest.duplicates import find_duplicates
from d2st.pipeline.manifest.identity import identities_of, identity_pattern, list_column
from d2st.pipeline.manifest.ids import sample_id, video_id
from d2st.pipeline.manifest.layouts import FRAMES_FOLDERS, LAYOUTS, Found
from d2st.pipeline.manifest.notes import frames_notes, ignored_notes, sight
from d2st.pipeline.manifest.schema import SCHEMA, SPLITS
from d2st.pipeline.manifest.split import assign_splits, connected
from d2st.pipeline.manifest.walk import Ignored, walk

__all__ = ["Scan", "scan_folder"]


@dataclass(frozen=True)
class Scan:
    """manifest: rows of SCHEMA sorted by sample_id. notes: what was decided or left aside, one sentence each."""

    manifest: pl.DataFrame
    layout: str
    notes: tuple[str, ...]
    ignored: Ignored


def scan_folder(
    root: str | Path,
    *,
    dataset: str | None = None,
    identity: str | None = None,
    split: str | None = None,
    frames_folders: str = "auto",
    probe: bool = False,
) -> Scan:
    """Make the manifest of the media under `root`.

    Args:
        dataset: name of the data set; default the name of `root`.
        identity: regular expression with one group; every match in a relative path is an identity of that sample.
            Default: each video (or single image) is its own identity.
        split: put everything into this split, whatever the folders say.
        frames_folders: "auto" a leaf folder of numbered images is one video; "always" any leaf folder of images; "never".
        probe: open every file for frames, fps, width and height.

    Raises:
        ManifestError: nothing under `root` fits a known layout, or `identity` matches no path.
        ConfigError: an argument makes no sense.
    """
    root = Path(root)
    pattern = identity_pattern(identity)
    _require("split", split, (None, *SPLITS))
    _require("frames_folders", frames_folders, FRAMES_FOLDERS)
    dataset = dataset or root.resolve().name
    if not dataset:
        raise ConfigError(f"{root} has no name to call the data set by", fix="Give --dataset NAME")

    layout, found, ignored = _find(root, frames_folders)
    notes = [*ignored_notes(ignored), *frames_notes(found)]

    duplicates, unreadable = find_duplicates(root, found)
    if copies := sum(place is not None for place in duplicates):
        notes.append(f"{copies} files are byte for byte copies of others (column duplicate_of); the build leaves them out.")
    if unreadable:
        notes.append(f"{unreadable} files could not be read and were not compared with others; the build will name them.")

    videos = [video_id(dataset, sample.group) for sample in found]
    identities = identities_of(found, videos, dataset, pattern, notes)
    splits = _splits(found, videos, identities, duplicates, split, notes)
    ids = [sample_id(dataset, sample.path) for sample in found]
    columns = {
        "sample_id": ids,
        "path": [sample.path for sample in found],
        "kind": [sample.kind for sample in found],
        "label": [sample.label for sample in found],
        "dataset": [dataset] * len(found),
        "method": [sample.method for sample in found],
        "split": splits,
        "video_id": videos,
        "identity": list_column(identities),
        "compression": [sample.compression for sample in found],
        "duplicate_of": [None if place is None else ids[place] for place in duplicates],
    }
    columns |= _probed(root, found, notes) if probe else {"frames": [sample.frames for sample in found]}
    blank = {name: [None] * len(found) for name in SCHEMA if name not in columns}
    manifest = pl.DataFrame(columns | blank, schema_overrides=SCHEMA).select(SCHEMA.names()).sort("sample_id")
    return Scan(manifest, layout, tuple(notes), ignored)


def _require(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r} is not known", fix=f"Use one of {', '.join(filter(None, allowed))}")


def _find(root: Path, frames_folders: str) -> tuple[str, list[Found], Ignored]:
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder", fix="Name the folder that holds the media")
    ignored = Ignored()
    for layout in LAYOUTS:
        ignored = Ignored()
        if layout.matches(root):
            found = sorted(layout.find(root, walk(root, ignored), frames_folders, ignored), key=lambda sample: sample.path)
            if found:
                return layout.name, found, ignored
    expected = "\n\n".join(f"{layout.name}:\n{layout.expects}" for layout in LAYOUTS)
    raise ManifestError(
        f"no known layout fits {root}: {sight(root, ignored)}", fix=f"Arrange it, links will do, as\n\n{expected}"
    )


def _splits(
    found: Sequence[Found],
    videos: Sequence[str],
    identities: Sequence[Sequence[str]],
    duplicates: Sequence[int | None],
    split: str | None,
    notes: list[str],
) -> list[str]:
    if split is not None:
        return [split] * len(found)
    known = [sample.split for sample in found]
    if None not in known:
        return [split for split in known if split is not None]
    # keys of different sorts never meet: pairs with the sort first
    keys = [
        (*(("identity", name) for name in who), ("video", video), ("bytes", place if copy is None else copy))
        for place, (who, video, copy) in enumerate(zip(identities, videos, duplicates, strict=True))
    ]
    components = connected(keys)
    names = [min(who) for who in identities]
    missing = known.count(None)
    notes.append(
        f"{missing} of {len(found)} samples stand in no split folder: {len(set(components))} groups of connected identities were "
        "split 70/15/15 by a seeded hash, the same in every scan of these files. Give --split test to put all into one."
    )
    return assign_splits(components, names, [sample.label for sample in found], known)


def _probed(root: Path, found: Sequence[Found], notes: list[str]) -> dict[str, list[float | int | None]]:
    from d2st.pipeline.manifest.probe import Probe, probe_all  # the video reader is loaded only where it is asked for

    made = probe_all(root, found)
    if failed := made.count(None):
        notes.append(f"{failed} files could not be probed; their frames, fps, width and height are empty.")
    rows = [Probe(sample.frames, None, None, None) if row is None else row for sample, row in zip(found, made, strict=True)]
    return {name: [getattr(row, name) for row in rows] for name in Probe._fields}
