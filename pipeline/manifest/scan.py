"""A folder of media or a list of samples in, a manifest out. Reads names and sizes; opens a file only to compare it with another of
the same size.

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
from d2st.pipeline.manifest.layouts import FRAMES_FOLDERS, LAYOUTS, Found, Place
from d2st.pipeline.manifest.notes import counted, frames_notes, ignored_notes
from d2st.pipeline.manifest.recognise import find_samples
from d2st.pipeline.manifest.schema import SCHEMA, SPLITS
from d2st.pipeline.manifest.split import assign_splits, connected
from d2st.pipeline.manifest.walk import Ignored

__all__ = ["Scan", "scan_folder"]


@dataclass(frozen=True)
class Scan:
    """manifest: rows of SCHEMA sorted by sample_id. root: the folder that paths start from. notes: what was decided or left aside, one
    sentence each."""

    manifest: pl.DataFrame
    root: Path
    layout: str
    notes: tuple[str, ...]
    ignored: Ignored


def scan_folder(
    source: str | Path,
    *,
    root: str | Path | None = None,
    layout: str | None = None,
    dataset: str | None = None,
    identity: str | None = None,
    split: str | None = None,
    frames_folders: str = "auto",
    probe: bool = False,
) -> Scan:
    """Make the manifest of a folder of media, or of a list of samples.

    Args:
        source: the folder, or a DeepfakeBench list (JSON), or a table (CSV, Parquet).
        root: the media folder that a list's paths start from; default the list's own folder.
        layout: the `key` of one of LAYOUTS; default the first that recognises `source`.
        dataset: name of the data set; default what the layout knows, else the name of `source`.
        identity: regular expression with one group; every match in a relative path is an identity of that sample.
            Default: each video (or single image) is its own identity.
        split: put everything into this split, whatever the folders say.
        frames_folders: "auto" a leaf folder of numbered images is one video; "always" any leaf folder of images; "never".
        probe: open every file for frames, fps, width and height.

    Raises:
        ManifestError: nothing in `source` fits a known layout, a list is damaged, or `identity` matches no path.
        ConfigError: an argument makes no sense.
    """
    source = Path(source)
    pattern = identity_pattern(identity)
    _require("split", split, (None, *SPLITS))
    _require("frames_folders", frames_folders, FRAMES_FOLDERS)
    _require("layout", layout, (None, *(known.key for known in LAYOUTS)))
    place = Place(_media_root(source, root), source, frames_folders)
    root, name = place.root, dataset or (source.stem if source.is_file() else source.resolve().name)
    if not name:
        raise ConfigError(f"{source} has no name to call the data set by", fix="Give --dataset NAME")

    used, found, ignored = find_samples(place, layout)
    notes = [*ignored_notes(ignored), *frames_notes(found)]

    duplicates, unreadable = find_duplicates(root, found)
    if copies := sum(place is not None for place in duplicates):
        notes.append(f"{copies} files are byte for byte copies of others (column duplicate_of); the build leaves them out.")
    if unreadable:
        notes.append(f"{unreadable} files could not be read and were not compared with others; the build will name them.")

    datasets = [dataset or sample.dataset or name for sample in found]
    videos = [video_id(own, sample.group) for own, sample in zip(datasets, found, strict=True)]
    identities = identities_of(found, videos, datasets, pattern, notes)
    splits = _splits(found, videos, identities, duplicates, split, notes)
    ids = [sample_id(own, sample.path) for own, sample in zip(datasets, found, strict=True)]
    columns = {
        "sample_id": ids,
        "path": [sample.path for sample in found],
        "kind": [sample.kind for sample in found],
        "label": [sample.label for sample in found],
        "dataset": datasets,
        "method": [sample.method for sample in found],
        "split": splits,
        "video_id": videos,
        "identity": list_column(identities),
        "compression": [sample.compression for sample in found],
        "box": [sample.box for sample in found],
        "landmarks": [sample.landmarks for sample in found],
        "frame_files": [sample.frame_files for sample in found],
        "duplicate_of": [None if place is None else ids[place] for place in duplicates],
    }
    columns |= _probed(root, found, notes) if probe else {"frames": [sample.frames for sample in found]}
    blank = {name: [None] * len(found) for name in SCHEMA if name not in columns}
    manifest = pl.DataFrame(columns | blank, schema_overrides=SCHEMA).select(SCHEMA.names()).sort("sample_id")
    return Scan(manifest, root, used.name, tuple(notes), ignored)


def _require(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r} is not known", fix=f"Use one of {', '.join(filter(None, allowed))}")


def _media_root(source: Path, root: str | Path | None) -> Path:
    if not source.exists():
        raise ManifestError(f"{source} does not exist", fix="Name the folder that holds the media, or a list of samples")
    if root is None:
        return source.parent if source.is_file() else source
    if source.is_dir():
        raise ConfigError(f"{source} is the media folder already, and --root {root} names another", fix="Leave out --root")
    if not Path(root).is_dir():
        raise ManifestError(f"the media folder {root} does not exist", fix="Name the folder that the list's paths start from")
    return Path(root)


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
    groups = counted(len(set(components)), "group")
    notes.append(
        f"{missing} of {len(found)} samples stand in no split folder: {groups} of connected identities, split 70/15/15 by a seeded hash, "
        "the same in every scan of these files. Give --split test to put all into one."
    )
    return assign_splits(components, names, [sample.label for sample in found], known)


def _probed(root: Path, found: Sequence[Found], notes: list[str]) -> dict[str, list[float | int | None]]:
    from d2st.pipeline.manifest.probe import Probe, probe_all  # the video reader is loaded only where it is asked for

    made = probe_all(root, found)
    if failed := made.count(None):
        notes.append(f"{failed} files could not be probed; their frames, fps, width and height are empty.")
    rows = [Probe(sample.frames, None, None, None) if row is None else row for sample, row in zip(found, made, strict=True)]
    return {name: [getattr(row, name) for row in rows] for name in Probe._fields}
