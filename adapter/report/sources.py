"""What only the store knows: a sample's path, why a sample was dropped, what a stage was trained on, how the cache was made.

The decision that shaped it: a report outlives its store. Everything here is what the page can do without, and a store that is gone or can't
be read is told in a sentence, not raised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.lineage import RECORD, lineage
from d2st.adapter.report.gather import Record, Stage
from d2st.cache.errors import StoreError
from d2st.cache.store import Store

__all__ = ["Sources", "find_sources"]


@dataclass(frozen=True)
class Sources:
    """The stores of a run.

    Attributes:
        stores: those that can be read.
        lacking: why others can't, a sentence each.
        manifest: sample_id, path, dataset, method, split of all their samples.
        rejected: sample_id, path, dataset, method, split, reason, detail of what could not be cached.
        configs: store name -> declared values of its token maps.
    """

    stores: tuple[Store, ...]
    lacking: tuple[str, ...]
    manifest: pl.DataFrame
    rejected: pl.DataFrame
    configs: Mapping[str, Mapping[str, Any]]

    def trained_on(self, stage: Stage) -> frozenset[tuple[str, str]] | None:
        """(data set, method) of what a stage and those that it came from were trained on; None where that can't be told any more."""
        folders, whole = lineage(stage.folder)
        seen = [pl.read_parquet(folder / RECORD, columns=["sample_id", "split"]) for folder in folders]
        if not seen or not whole:
            return None
        ids = pl.concat([part.with_columns(pl.col("split").cast(pl.String)) for part in seen]).filter(
            pl.col("split") == "train"
        )
        ids = ids.unique("sample_id")
        known = self.manifest.join(ids, on="sample_id", how="semi")
        return frozenset(known.select("dataset", "method").unique().iter_rows()) if 0 < len(known) == len(ids) else None


def find_sources(record: Record, named: Sequence[Path] = ()) -> Sources:
    """The stores named, else the training cache that the shown stage remembers, and beside it those that its evaluation names."""
    paths = list(named)
    remembered = record.shown.fingerprint.get("cache_path")
    lacking = [] if paths or remembered else ["the run does not remember its cache"]
    if not paths and remembered:
        home = record.shown.folder / remembered
        about = (record.evaluation.summary.get("about") or {}) if record.evaluation else {}
        paths = [
            home,
            *(home.parent / name for name in about.get("caches", []) if name != home.name and Path(name).name == name),
        ]
    stores, manifests, rejected, configs = [], [_MANIFEST.to_frame()], [_REJECTED.to_frame()], {}
    for path in paths:
        try:
            store = Store.open(path)
            manifests.append(_as(store.manifest(), _MANIFEST))
            rejected.append(_as(store.rejected(), _REJECTED))
            configs[store.path.name] = store.tokens.config
        except StoreError as error:
            lacking.append(f"the cache {path.name} can't be read: {error.message.replace(str(path), path.name)}")
        else:
            stores.append(store)
    found = pl.concat(manifests).unique("sample_id", keep="first", maintain_order=True)
    return Sources(tuple(stores), tuple(lacking), found, pl.concat(rejected), configs)


_MANIFEST = pl.Schema(dict.fromkeys(("sample_id", "path", "dataset", "method", "split"), pl.String))
_REJECTED = pl.Schema({**_MANIFEST, "reason": pl.String, "detail": pl.String})


def _as(table: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """`table` with these columns; one that it lacks is null."""
    return table.select(
        (pl.col(name) if name in table.columns else pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items()
    )
