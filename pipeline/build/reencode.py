"""More token maps from crops that are there: layers added to a token set, or another set beside it. No media are touched.

An addition is a level of its own (`tokens+1`) with the config of the set but for the layers, so nothing that is committed changes;
readers see the levels of a set as one.
"""

from functools import partial
from pathlib import Path

import polars as pl

from d2st.cache.claims import Claims
from d2st.cache.errors import ConfigError, StoreError
from d2st.cache.level import Level, ensure_level, require_writable
from d2st.cache.statistics import refresh_all_statistics
from d2st.cache.store import MAIN, Store, token_folder
from d2st.cache.views import VIEW
from d2st.pipeline.build.calibrate import calibrate_first
from d2st.pipeline.build.encoders import encoder_like
from d2st.pipeline.build.progress import OnProgress, Progress
from d2st.pipeline.build.report import BuildReport, make_report
from d2st.pipeline.build.stages import make_shards
from d2st.pipeline.build.tokens import ensure_token_arrays
from d2st.pipeline.build.use import Run
from d2st.pipeline.build.views import View
from d2st.pipeline.build.work import Work, own_shards, stale_tokens
from d2st.pipeline.clip import Encoder

__all__ = ["add_layers", "encode_set"]


def encode_set(
    store_path: Path,
    name: str,
    encoder: Encoder,
    *,
    view: View | None = None,
    part: tuple[int, int] | None = None,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> BuildReport:
    """Encode the store's crops into the token set `name`; goes on where an earlier call was stopped, shares with others that do the same.

    Args:
        view: what is done to the crops before; nothing by default.
        part: as for `build`.
        on_progress: called with ("tokens", frames done, frames in all).

    Raises:
        ConfigError: no name for a token set, or that of the set which `build` makes.
        FingerprintError: the set is there and was made with other settings.
        StoreError: as for `build`.
    """
    store = Store.open(store_path)
    require_writable(store_path)
    if name == MAIN:
        raise ConfigError(f"{MAIN!r} is the token set that `d2st cache build` makes", fix="Choose another name with --as")
    with Claims(store_path / "claims", purpose="build") as claims:
        config = {**encoder.declared(), "crops": store.crops.config, **({VIEW: view.declared()} if view else {})}
        level = ensure_level(store_path, token_folder(name), config, {"pretrained": encoder.backbone.pretrained})
        return _encode(store, level, encoder, claims, part, on_progress)


def add_layers(
    store_path: Path,
    layers: str,
    *,
    tokens: str = MAIN,
    pretrained: str | None = None,
    device: str = "auto",
    part: tuple[int, int] | None = None,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> BuildReport:
    """Add layers to a token set, from the store's crops; goes on where an earlier call was stopped.

    Args:
        layers: as for `resolve_layers`.
        tokens: the set's name.
        pretrained: where the weights are, when it is not what the set was made with by name; they must be the same weights.
        part, on_progress: as for `encode_set`.

    Raises:
        ConfigError: the backbone has no such layer, or the set has it already.
        WeightsError: other weights than the set's.
        StoreError: as for `build`.
    """
    store = Store.open(store_path, tokens=tokens)
    require_writable(store_path)
    base = store.tokens.levels[0]
    encoder = encoder_like(base, layers, pretrained, device)
    with Claims(store_path / "claims", purpose="build") as claims:
        level = _level_for(store, tokens, base, encoder)
        return _encode(store, level, encoder, claims, part, on_progress)


def _level_for(store: Store, tokens: str, base: Level, encoder: Encoder) -> Level:
    """The level of these added layers: the one that is there, or a new one."""
    levels = store.token_levels(tokens)
    config = {**base.config, "layers": list(encoder.layers)}
    for level in levels[1:]:
        if level.config["layers"] == config["layers"]:
            return level
    present = [layer for level in levels for layer in level.config["layers"] if layer in encoder.layers]
    if present:
        raise ConfigError(
            f"the token set {tokens!r} of {store.path} has {', '.join(present)} already", fix="Name the other layers alone"
        )
    numbers = [int(level.name.rpartition("+")[2]) for level in levels[1:]]
    return ensure_level(store.path, f"{base.name}+{max(numbers, default=0) + 1}", config, base.notes)


def _encode(
    store: Store, level: Level, encoder: Encoder, claims: Claims, part: tuple[int, int] | None, on_progress: OnProgress
) -> BuildReport:
    crops, manifest, plan = store.crops, store.manifest(), store.plan()
    counted = set(manifest.filter(pl.col("split") == "train")["sample_id"])
    shards = own_shards(crops.committed(), part)
    if not shards:
        raise StoreError(f"{store.path} holds no crops", fix="Run `d2st cache build` first")
    ensure_token_arrays(level, encoder, shards=max(crops.committed()) + 1)
    work = Work(
        shards,
        crops=crops,
        tokens=level,
        stale=stale_tokens(crops, level),
        claims=claims,
        name=level.name,
        on_elsewhere=lambda shard: progress.elsewhere(shard),
    )
    progress = Progress(
        on_progress, samples={}, frames={shard: int(crops.part(shard).rows["frames"].sum()) for shard in work.waiting}
    )
    run = Run(workers=1, threads=1, device=encoder.backbone.device)
    make = partial(make_shards, counted=counted, clocks=run.clocks, progress=progress)

    def need_crops(first: list[int]) -> int:
        if missing := sorted(set(first) - crops.committed()):
            raise StoreError(
                f"{store.path} lacks the crops of shard {missing[0]}, by which int8 is calibrated",
                fix="Run `d2st cache build` first",
            )
        return 0

    with run.used.running():
        if work.waiting:
            planned = sorted(set(plan["shard"]))
            calibrate_first(level, encoder, crops, shards=planned, counted=counted, make_crops=need_crops)
        built = make(work, encoder=encoder, wait=part is None)
    statistics = refresh_all_statistics(store, counted)
    return make_report(crops, level, plan, manifest, built=built, statistics=statistics, run=run)
