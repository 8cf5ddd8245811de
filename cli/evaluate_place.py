"""Where an evaluation finds its cache, and where it goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2st.cache.store import Store

__all__ = ["evaluation_folder", "training_cache"]


def training_cache(checkpoint: Path) -> Path:
    """The cache that the run remembers, relative to its own folder."""
    from d2st.adapter.train.rundir import read_json
    from d2st.cache.errors import RunError

    record = checkpoint.parent / "fingerprint.json"
    remembered = read_json(record).get("cache_path") if record.is_file() else None
    if not remembered or not (checkpoint.parent / remembered).is_dir():
        lost = "the cache was moved" if remembered else f"nothing beside {checkpoint.name} says which cache"
        raise RunError(f"can't tell what to score: {lost}", fix="Name the cache: --cache STORE")
    return checkpoint.parent / remembered


def evaluation_folder(checkpoint: Path, split: str, caches: Sequence[Path], stores: "Sequence[Store]") -> Path:
    """Beside the checkpoint: eval-SPLIT for the training cache, else with the names of the `caches`; results of other data must not
    replace its own.

    Where an evaluation of none of the samples of the `stores` has that name already, the folders of the caches stand in it too:
    celeb/faces.d2st and dfdc/faces.d2st.
    """
    from d2st.cache.errors import RunError

    try:
        own = training_cache(checkpoint).resolve()
    except RunError:
        own = None
    if all(path.resolve() == own for path in caches):
        return checkpoint.parent / f"eval-{split}"
    folder = checkpoint.parent / "-".join([f"eval-{split}", *(path.stem for path in caches)])
    if not _of_others(folder, stores):
        return folder
    return checkpoint.parent / "-".join([f"eval-{split}", *(f"{path.resolve().parent.name}-{path.stem}" for path in caches)])


def _of_others(folder: Path, stores: "Sequence[Store]") -> bool:
    """Whether an evaluation lies there that has no sample in common with these stores."""
    import polars as pl

    if not (folder / "metrics.json").is_file():
        return False
    try:
        scored = pl.read_parquet(folder / "predictions.parquet", columns=["sample_id"], glob=False)
    except (OSError, pl.exceptions.PolarsError):  # damaged: nothing that could be lost
        return False
    here = pl.concat([store.manifest().select("sample_id") for store in stores])
    return not scored.is_empty() and scored.join(here, on="sample_id", how="semi").is_empty()
