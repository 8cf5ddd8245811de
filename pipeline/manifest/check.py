"""The rules of a manifest: what is wrong in itself, and what would make scores dishonest.

An error is something that changes a result in silence (a person in two splits, a copy with two labels); a warning is something a user may
well intend (a test set without training rows). Nothing is mended here: a finding says what, how many, and five examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from d2st.pipeline.manifest.ids import sample_id
from d2st.pipeline.manifest.schema import FAKE, REAL, REQUIRED, SPLITS

__all__ = ["Finding", "check_files", "check_manifest", "check_rows"]

EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    severity: str  # "error" or "warning"
    code: str
    message: str
    fix: str
    count: int
    examples: tuple[str, ...] = ()


def check_rows(manifest: pl.DataFrame) -> list[Finding]:
    """Errors in the rows themselves. Without these a manifest can't be read or written at all."""
    path = pl.col("path")
    label, method = pl.col("label"), pl.col("method")
    found = [_missing(manifest, name) for name in REQUIRED]
    rules = (
        ("label", ~label.is_in([REAL, FAKE]), "labels are neither 0 (real) nor 1 (fake)", "Correct the column label"),
        (
            "path",
            path.str.starts_with("/") | path.str.contains(r"\\|^[A-Za-z]:|(^|/)\.\.(/|$)") | (path == ""),
            "paths are not relative posix paths below the root",
            "Write them relative to the root, with forward slashes",
        ),
        ("box", pl.col("box").list.len() != 4, "boxes do not hold x0, y0, x1, y1", "Give four numbers or null"),
        ("landmarks", pl.col("landmarks").list.len() != 10, "landmarks do not hold five points", "Give ten numbers or null"),
        (
            "identity",
            pl.col("identity").list.len() == 0,
            "samples name no identity",
            "Name the video itself where nobody is known",
        ),
        ("sample_id", pl.col("sample_id").is_duplicated(), "rows share their sample_id", "Keep one row of each file"),
        (
            "method",
            (label == REAL) & (method != "real") | (label == FAKE) & (method == "real"),
            "rows whose label and method contradict each other",
            'Real samples have method "real", fakes any other',
        ),
    )
    found += [_rows(manifest.filter(condition), code, message, fix) for code, condition, message, fix in rules]
    return [finding for finding in found if finding.count]


def check_manifest(manifest: pl.DataFrame) -> list[Finding]:
    """Every finding that needs no media: `check_rows`, leaks between splits, contradictions, and what training will miss."""
    if manifest.is_empty():
        return [Finding("error", "no_rows", "the manifest has no rows", "Scan a folder that holds media", 0)]
    copies = manifest.filter(pl.col("duplicate_of").is_not_null())
    pairs = copies.join(manifest, left_on="duplicate_of", right_on="sample_id", how="left", suffix="_first")
    found = [
        *check_rows(manifest),
        _crossing(
            manifest.explode("identity"), "identity", "split", "identity_leak", "identities are in two splits or more", _LEAK
        ),
        _crossing(manifest, "video_id", "split", "video_leak", "videos are in two splits or more", _LEAK),
        _crossing(manifest, "path", "split", "path_leak", "files are in two splits or more, by two data sets' names", _LEAK),
        _crossing(
            manifest, "path", "label", "path_label", "files have both labels, by two data sets' names", "Keep the right one"
        ),
        _crossing(
            manifest,
            "video_id",
            "label",
            "video_label",
            "videos have both labels",
            "Give fakes another video_id than their source",
        ),
        _rows(
            pairs.filter(pl.col("split") != pl.col("split_first")),
            "duplicate_leak",
            "copies of a file are in another split",
            _LEAK,
        ),
        _rows(
            pairs.filter(pl.col("label") != pl.col("label_first")),
            "duplicate_label",
            "copies of a file have another label",
            "Remove the wrong copy",
        ),
        _rows(
            pairs.filter(pl.col("path_first").is_null()),
            "duplicate_dangling",
            "copies of a file that is no longer in the manifest",
            "Set duplicate_of to null where the first copy was filtered out, or scan again",
        ),
        _rows(
            copies,
            "duplicate",
            "byte-identical copies, left out of the build",
            "Nothing to do, or remove them",
            severity="warning",
        ),
        _val_is_test(manifest),
        _derived(manifest),
        *_splits(manifest),
    ]
    return [finding for finding in found if finding.count]


def check_files(manifest: pl.DataFrame, root: Path) -> list[Finding]:
    """Files of the manifest that `root` does not hold."""
    missing = [path for path in manifest["path"] if not (root / path).exists()]
    if not missing:
        return []
    fix = "Restore them, or name the right folder with --root"
    return [Finding("error", "missing", f"files are not under {root}", fix, len(missing), tuple(sorted(missing)[:EXAMPLES]))]


_LEAK = "Split anew by identity (d2st manifest split), or remove one side: scores of such a split are too good"


def _rows(rows: pl.DataFrame, code: str, message: str, fix: str, *, severity: str = "error") -> Finding:
    examples = tuple(rows["path"].drop_nulls().sort().head(EXAMPLES))
    return Finding(severity, code, message, fix, rows.height, examples)


def _missing(manifest: pl.DataFrame, name: str) -> Finding:
    return _rows(manifest.filter(pl.col(name).is_null()), "empty_cell", f"rows have no {name}", f"Fill the column {name}")


def _crossing(manifest: pl.DataFrame, key: str, value: str, code: str, message: str, fix: str) -> Finding:
    """Groups of `key` that hold more than one `value`."""
    pairs = manifest.select(key, value).drop_nulls().unique()
    groups = pairs.filter(pl.col(key).is_duplicated()).group_by(key).agg(pl.col(value).cast(pl.String).sort()).sort(key)
    examples = tuple(f"{name} ({', '.join(values)})" for name, values in groups.head(EXAMPLES).iter_rows())
    return Finding("error", code, message, fix, groups.height, examples)


def _derived(manifest: pl.DataFrame) -> Finding:
    rows = manifest.drop_nulls(["dataset", "path"])
    wrong = [not _follows(*row) for row in rows.select("sample_id", "dataset", "path").iter_rows()]
    return _rows(
        rows.filter(pl.Series(wrong, dtype=pl.Boolean)),
        "sample_id_derived",
        "sample_ids do not follow from dataset and path",
        "Renamed files need a new sample_id, or the cache takes them for the old ones: scan again",
        severity="warning",
    )


def _follows(made: str, dataset: str, path: str) -> bool:
    """Whether an id is that of the path, or of its end: `manifest merge` puts folders in front."""
    while made != sample_id(dataset, path):
        _, slash, path = path.partition("/")
        if not slash:
            return False
    return True


def _val_is_test(manifest: pl.DataFrame) -> Finding:
    """Whether most of the val split are copies of test samples: some published lists give the same videos twice."""
    val, test = (manifest.filter(pl.col("split") == split) for split in ("val", "test"))
    first = pl.coalesce("duplicate_of", "sample_id")
    same = val.filter(first.is_in(test.select(first).to_series().implode()))
    count = same.height if val.height and same.height >= 0.9 * val.height else 0
    return Finding(
        "error",
        "val_is_test",
        f"of {val.height} val samples are copies of test samples: choosing by val is choosing by test",
        "Make a val split of its own: d2st manifest split --keep test",
        count,
        tuple(same["path"].sort().head(EXAMPLES)),
    )


def _splits(manifest: pl.DataFrame) -> Sequence[Finding]:
    found = []
    for split in SPLITS:
        labels = manifest.filter(pl.col("split") == split)["label"].unique().to_list()
        if not labels:
            trains = split == "val" and (manifest["split"] == "train").any()
            fix = (
                "Training needs one: d2st manifest split --keep test"
                if trains
                else "Fine for a data set that is only tested on"
            )
            found.append(Finding("warning", "empty_split", f"split {split} has no samples", fix, 1))
        elif len(labels) == 1:
            word = "real" if labels[0] == REAL else "fake"
            message = f"split {split} holds only {word} samples, so it has no AUC"
            found.append(Finding("warning", "one_class_split", message, "Add samples of the other class", 1))
    return found
