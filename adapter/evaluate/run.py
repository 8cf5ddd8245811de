"""One evaluation from cached tokens to files: choose the samples, score them, measure, write. The CLI and the demo call this.

Nothing vanishes: whatever the manifest lists for the split is scored or counted under the reason why it was not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from d2st.adapter.evaluate.embed import Embedded, embed_samples, join
from d2st.adapter.evaluate.gap import choose, gap_between
from d2st.adapter.evaluate.groups import check_groups, with_two_kinds
from d2st.adapter.evaluate.protocol import PROTOCOLS
from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.evaluate.summary import summarise
from d2st.adapter.evaluate.validation import score_validation
from d2st.adapter.evaluate.write import write_evaluation
from d2st.adapter.nets.detector import Detector
from d2st.cache.errors import ConfigError, FingerprintError
from d2st.cache.fingerprint import check_same
from d2st.cache.loader import TokenLoader
from d2st.cache.store import Store

__all__ = ["NOT_BUILT", "check_store", "choose_samples", "evaluate_run", "open_matching"]

NOT_BUILT = "not_built"  # listed in the manifest, but no build has tried it yet


def evaluate_run(
    detector: Detector,
    stores: Sequence[Store],
    *,
    layers: Sequence[str],
    clip_frames: int,
    out_dir: Path,
    title: str,
    split: str = "test",
    manifest: pl.DataFrame | None = None,
    device: str = "cpu",
    resamples: int = 1000,
    validation: pl.DataFrame | None = None,
    protocols: Collection[str] = (),
    about: Mapping[str, Any] | None = None,
    trained_on: Collection[str] = (),
    gap: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score every cached sample of `split` in all stores, write the results into `out_dir`, and return the summary: what `summarise`
    gives, with `split`, `about` and `gap`.

    Args:
        detector: as in `score_samples`, on `device`.
        layers: which cached layers the detector reads.
        title: heading of the plots.
        manifest: labels and splits to use instead of those the stores were built with; may cover several stores.
        validation: predictions of the val split by the same detector, from which the temperature comes; None scores that of the stores.
        protocols: names of `protocol.PROTOCOLS` by which to measure as well; they need the manifest's `path`.
        resamples: bootstrap resamples for each interval.
        trained_on: ids of samples that the detector has learnt from, to be counted.
        gap: measure the modality gap too (`gap_between`), with heads trained on the stores' train split; null in the summary where that
            was not asked for, or where the split lacks images or videos. Embeds up to 1,000 samples of either split a store.
        about: JSON values that say what was scored; kept in the summary, and no path belongs in it.

    Raises:
        ConfigError: a store has no sample of the split, or two stores hold the same sample.
        ManifestError: a `video_id` holds real and fake samples.
        RunError: the detector gives NaN.
        StoreError: a store is damaged.
    """
    chosen, dropped = choose_samples(stores, split=split, manifest=manifest)
    check_groups(pl.concat([samples.select("video_id", "label") for samples in chosen]))
    total, before, scored = sum(map(len, chosen)), 0, []
    gap = gap and with_two_kinds(pl.concat([samples.select("kind") for samples in chosen]))["kind"].n_unique() == 2
    embedded: list[list[Embedded]] = [[], []]
    for store, samples in zip(stores, chosen, strict=True):

        def report(done: int, clips: int, *, before: int = before, share: int = len(samples)) -> None:
            if on_progress is not None:
                on_progress(before + share * done // clips, total)

        with TokenLoader(store, layers, device=device, maps=detector.adapter.needs_maps) as loader:
            scored.append(score_samples(detector, loader, samples, clip_frames=clip_frames, on_progress=report))
            if gap:
                train = store.samples(manifest).filter(pl.col("split") == "train")
                for found, part in zip(embedded, (train, samples), strict=True):
                    found.append(embed_samples(detector, loader, choose(part, seed=0), clip_frames=clip_frames))
        before += len(samples)
    predictions = pl.concat(scored)
    if validation is None and split != "val":
        validation = score_validation(
            detector, stores, layers=layers, clip_frames=clip_frames, manifest=manifest, device=device
        )
    numbers = summarise(
        predictions,
        clip_frames=clip_frames,
        rejected=dropped,
        trained_on=trained_on,
        validation=validation,
        resamples=resamples,
    )
    if protocols:
        paths = pl.concat([samples.select("sample_id", "path") for samples in chosen])
        numbers["protocols"] = {
            name: PROTOCOLS[name](predictions, paths, clip_frames=clip_frames, summary=numbers) for name in protocols
        }
    summary = {"split": split, "about": {**(about or {}), "caches": [store.path.name for store in stores]}, **numbers}
    summary["gap"] = gap_between(*map(join, embedded), seed=0) if gap else None
    write_evaluation(out_dir, predictions, summary, title=title)
    return summary


def choose_samples(
    stores: Sequence[Store], *, split: str, manifest: pl.DataFrame | None = None
) -> tuple[list[pl.DataFrame], dict[str, int]]:
    """The cached samples of `split`, one table a store as `Store.samples` gives it, and reason -> count of those that are missing.

    Raises ConfigError when a store has none, or two have the same sample.
    """
    if manifest is not None and (twice := manifest.height - manifest["sample_id"].n_unique()):
        raise ConfigError(f"the manifests list {twice} samples more than once", fix="Name each manifest once")
    chosen, known, dropped = [], [], []
    for store in stores:
        samples = store.samples(manifest)
        inside = samples.filter(pl.col("split") == split)
        if inside.is_empty():
            there = samples.group_by("split").len().sort("split")
            counts = ", ".join(f"{name} {count}" for name, count in there.iter_rows()) or "nothing at all"
            raise ConfigError(
                f"{store.path.name} holds no sample of the {split} split; it holds {counts}",
                fix="Ask for a split that it has with --split, or name a manifest that has splits with --manifest",
            )
        chosen.append(inside)
        known.append((store.manifest() if manifest is None else manifest).filter(pl.col("split") == split).select("sample_id"))
        dropped.append(store.rejected(manifest).filter(pl.col("split") == split).select("sample_id", "reason"))
    scored = pl.concat([samples.select("sample_id") for samples in chosen])
    if twice := int(scored["sample_id"].is_duplicated().sum()):
        raise ConfigError(
            f"{twice // 2} samples lie in more than one of the stores and would count twice", fix="Name one of them"
        )
    # a sample that one store rejected and another one holds was scored
    rejected = pl.concat(dropped).unique("sample_id").join(scored, on="sample_id", how="anti")
    missing = (
        pl.concat(known).unique("sample_id").join(scored, on="sample_id", how="anti").join(rejected, on="sample_id", how="anti")
    )
    reasons = dict(rejected.group_by("reason").len().sort("reason").iter_rows())
    return chosen, {**reasons, NOT_BUILT: len(missing)} if len(missing) else reasons


def check_store(store: Store, *, config: dict[str, Any], layers: Sequence[str]) -> None:
    """Raise FingerprintError, naming the fields, unless the store's tokens are of the kind that the detector was trained on.

    Args:
        config: `Store.tokens.config` of the training cache. Which layers it cached does not matter, as long as `layers` are here.
    """
    fix = "Build this cache with the options of the training cache, or name another one with --cache"
    here = {key: value for key, value in store.tokens.config.items() if key != "layers"}
    check_same(
        here, {key: value for key, value in config.items() if key != "layers"}, where=f"the cache {store.path.name}", fix=fix
    )
    if lacking := [layer for layer in layers if layer not in store.tokens.layers]:
        raise FingerprintError(f"the cache {store.path.name} lacks the layers {', '.join(lacking)}", fields=["layers"], fix=fix)


def open_matching(path: Path, *, config: dict[str, Any], layers: Sequence[str]) -> Store:
    """Open the store at `path` with that of its token sets which the detector was trained on the like of.

    Raises:
        FingerprintError: there is none; names the fields in which the first one differs (`check_store`).
        StoreError: there is no store, or it is damaged.
    """
    stores = [Store.open(path, tokens=name) for name in Store.open(path).token_sets()] or [Store.open(path)]
    refused = []
    for store in stores:
        try:
            check_store(store, config=config, layers=layers)
            return store
        except FingerprintError as error:
            refused.append(error)
    raise refused[0]
