"""A table of your own, CSV or Parquet: one row a sample, `path` and `label` and whatever else of a manifest's columns is known.

Nothing is guessed that the table says; what it does not say is read off the path as far as that goes.
"""

import math
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.base import Found, Layout, Place
from d2st.pipeline.manifest.layouts.folders import CLASS_NAMES, SPLIT_NAMES
from d2st.pipeline.manifest.schema import FAKE, KINDS, REAL
from d2st.pipeline.manifest.walk import Ignored, media_kind

__all__ = ["TABLE"]

KNOWN = ("path", "label", "kind", "method", "split", "video_id", "identity", "dataset", "compression", "box", "landmarks")
TEXTS = ("path", "kind", "method", "split", "video_id", "dataset", "compression")  # numbers are taken as words

EXPECTS = """\
LIST.csv or LIST.parquet (and --root MEDIA, if the paths do not start beside it)
path,label,method,split,identity              label: real, fake, 0, 1; only path and label are needed
a/1.mp4,fake,FaceSwap,train,id1|id2           several identities or numbers: separated by |"""


def read_table(file: Path) -> pl.DataFrame:
    """The table, its columns as they are in Parquet, those in `TEXTS` as text. Raises ManifestError."""
    try:
        is_csv = file.suffix.lower() == ".csv"
        table = pl.read_csv(file, infer_schema=False, glob=False) if is_csv else pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ManifestError(f"can't read {file}: {reason}", fix="Name a CSV file with a header, or a Parquet file") from error
    lacking = [name for name in ("path", "label") if name not in table.columns]
    unknown = [name for name in table.columns if name not in KNOWN]
    if lacking:
        raise ManifestError(f"{file} lacks the column {' and '.join(lacking)}", fix=f"Known columns: {', '.join(KNOWN)}")
    if unknown:
        raise ManifestError(f"{file} has unknown columns {', '.join(unknown)}", fix=f"Remove them; known: {', '.join(KNOWN)}")
    plain = [name for name in TEXTS if name in table.columns]
    nested = [name for name in plain if table.schema[name].is_nested()]
    if nested:
        raise ManifestError(f"{file}: the column {nested[0]} holds {table.schema[nested[0]]}", fix="Give one text a row")
    table = table.with_columns(pl.selectors.float().fill_nan(None))  # how other tools write that there is none
    return table.with_columns(pl.col(plain).cast(pl.String))


def _find(place: Place, ignored: Ignored) -> Iterator[Found]:
    for number, row in enumerate(read_table(place.source).iter_rows(named=True), 2):
        if all(value is None or value == "" for value in row.values()):  # a blank line
            continue
        where = f"{place.source}, row {number}"
        path = posixpath.normpath((row["path"] or ".").replace("\\", "/"))
        if path == ".":
            raise ManifestError(f"{where} names no path", fix="Fill the column path, or remove the row")
        label = _label(row["label"], where)
        size, frames = _on_disk(place.root / path)
        if size is None:
            ignored.missing.append(path)
            continue
        kind = row.get("kind") or ("frames" if frames is not None else media_kind(path))
        if kind is None:
            ignored.extensions[os.path.splitext(path)[1].lower() or "no extension"] += 1
            continue
        if kind not in KINDS:
            raise ManifestError(f"{where}: kind {kind!r} is not known", fix=f"Kinds are {', '.join(KINDS)}, or empty")
        method = row.get("method") or ("real" if label == REAL else "unknown")
        yield Found(
            path=path,
            kind=kind,
            label=label,
            method=method,
            split=_split(row.get("split"), where),
            group=row.get("video_id") or (path if kind == "frames" else path.rpartition(".")[0]),
            size=size,
            frames=frames,
            identities=_several(row.get("identity")),
            compression=row.get("compression"),
            dataset=row.get("dataset"),
            box=_numbers(row.get("box"), 4, where),
            landmarks=_numbers(row.get("landmarks"), 10, where),
        )


def _on_disk(path: Path) -> tuple[int | None, int | None]:
    """Bytes, and the number of images where it is a folder; (None, None) where nothing is."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                sizes = [entry.stat().st_size for entry in entries if media_kind(entry.name) == "image"]
            return sum(sizes), len(sizes)
        return path.stat().st_size, None
    except OSError:
        return None, None


def _label(value: Any, where: str) -> int:
    text = str(value).strip().casefold()
    known = CLASS_NAMES | {"0": REAL, "1": FAKE, "0.0": REAL, "1.0": FAKE}
    if text not in known:
        raise ManifestError(
            f"{where}: label {value!r} is neither real nor fake", fix="Write real or fake, or 0 or 1 (1 is fake)"
        )
    return known[text]


def _split(value: str | None, where: str) -> str | None:
    if not value:
        return None
    if (split := SPLIT_NAMES.get(value.strip().casefold())) is None:
        raise ManifestError(f"{where}: split {value!r} is not known", fix="Splits are train, val, test, or empty")
    return split


def _several(value: Any) -> tuple[str, ...] | None:
    if value is not None and not isinstance(value, str | list):
        value = [value]
    names = value.split("|") if isinstance(value, str) else value or ()
    return tuple(str(name) for name in names if name is not None and str(name)) or None


def _numbers(value: Any, count: int, where: str) -> tuple[float, ...] | None:
    parts = _several(value)
    if parts is None:
        return None
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ManifestError(f"{where}: {value!r} is not {count} numbers", fix="Separate them by |")
    return numbers


TABLE = Layout(
    key="table",
    name="table",
    expects=EXPECTS,
    matches=lambda source: source.is_file() and source.suffix.lower() in (".csv", ".parquet"),
    find=_find,
    of_lists=True,
)
