"""A planned stage before its first step: its network, optimiser and loader."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from d2st.adapter.precision import product_dtype
from d2st.adapter.train import checkpoint
from d2st.adapter.train.optim import Ema, make_optimizer, unmatched_rates
from d2st.adapter.train.plan import Plan
from d2st.adapter.train.ranks import Ranks
from d2st.adapter.train.seeds import seed_everything
from d2st.adapter.train.select import Rows, to_rows
from d2st.adapter.train.trainer import BatchSource, Event, Trainer
from d2st.adapter.train.whiten import fit_whitening
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import RunError
from d2st.cache.fingerprint import check_same
from d2st.cache.views import open_views

__all__ = [
    "checkpoint_name",
    "class_weight",
    "frames_read",
    "make_detector",
    "make_network",
    "make_source",
    "make_trainer",
    "refuse_misfit",
]

ENCODER = ("backbone", "weights_digest", "tap")  # of a cache's config: what the numbers of a token map mean


def make_detector(
    store: Store,
    plan: Plan,
    *,
    device: str,
    init_checkpoint: Path | None,
    in_memory: bool = False,
    whiten: bool = True,
) -> tuple[nn.Module, TokenLoader, str | None]:
    """The network on its device, the loader, and the name of what the weights come from.

    Args:
        init_checkpoint: weights to start from, head included; None starts from seeded random ones, fitted to the samples if `whiten`.

    Raises:
        ConfigError: as `TokenLoader` does. RunError: the checkpoint does not fit.
    """
    detector, name = make_network(store, plan, device=device, init_checkpoint=init_checkpoint)
    source = make_source(store, plan, detector, device=device, in_memory=in_memory)
    if init_checkpoint is None and whiten:
        fit_whitening(detector.adapter, source, to_rows(plan.selection.train), seed=plan.recipe.seed)
    return detector, source, name


def make_network(store: Store, plan: Plan, *, device: str, init_checkpoint: Path | None) -> tuple[nn.Module, str | None]:
    """The network on its device, not whitened yet where it starts from random weights, and the name of what the weights come from.

    Raises:
        RunError: the checkpoint does not fit.
    """
    seed_everything(plan.recipe.seed)
    detector = checkpoint.build_detector(plan.meta, store.tokens.stats)
    if init_checkpoint is not None:
        refuse_misfit(init_checkpoint, checkpoint.read_meta(init_checkpoint), plan.meta)
        checkpoint.load_weights(detector, init_checkpoint)
    return detector.to(device), checkpoint_name(init_checkpoint) if init_checkpoint else None


def make_source(store: Store, plan: Plan, detector: nn.Module, *, device: str, in_memory: bool = False) -> TokenLoader:
    """The loader of what a network reads. Raises ConfigError as `TokenLoader` does."""
    views = open_views(store, plan.recipe.data.views)
    return TokenLoader(
        store,
        plan.meta["layers"],
        device=device,
        maps=detector.adapter.needs_maps,
        in_memory=in_memory,
        frames=frames_read(plan),
        views=views,
    )


def frames_read(plan: Plan) -> int:
    """How many frames a stage may read in all its epochs, over all views."""
    train, val = (int(samples["frames_cached"].sum()) for samples in (plan.selection.train, plan.selection.val))
    return train * max(1, len(plan.recipe.data.views)) + val


def make_trainer(
    store: Store,
    plan: Plan,
    detector: nn.Module,
    source: BatchSource,
    *,
    device: str,
    ranks: Ranks = Ranks(),  # noqa: B008, frozen
    on_event: Event = lambda event: None,
) -> Trainer:
    """Put a stage's parts together."""
    recipe, rows = plan.recipe, to_rows(plan.selection.train)
    optim = recipe.optim
    for part in unmatched_rates(detector, optim.rates):
        message = f"adapter {recipe.adapter.name} has no parameter with {part!r} in its name (optim.rates)"
        on_event({"event": "note", "message": message})
    on_device = torch.device(device)
    return Trainer(
        recipe=recipe,
        detector=detector,
        optimizer=make_optimizer(detector, lr=optim.lr, weight_decay=optim.weight_decay, rates=optim.rates),
        ema=Ema(detector, decay=optim.ema) if optim.ema else None,
        source=source,
        rows=rows,
        stats={
            name: (torch.from_numpy(mean).to(device), torch.from_numpy(std).to(device))
            for name, (mean, std) in store.tokens.stats.items()
        },
        clip_frames=plan.meta["clip_frames"],
        device=on_device,
        ranks=ranks,
        dtype=product_dtype(optim.precision, on_device),
        class_weight=class_weight(rows),
        views=max(1, len(recipe.data.views)),
        stride=source.stride,
    )


def class_weight(rows: Rows) -> tuple[float, float]:
    """(w_real, w_fake) of the balanced loss, w_y = N / (2 N_y): each label weighs half of the whole."""
    real, fake = (len(rows.label) / (2 * int(count)) for count in np.bincount(rows.label, minlength=2))
    return real, fake


def refuse_misfit(where: Path | str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise when weights of a network that `there` describes can't start the one that `here` describes.

    Raises:
        FingerprintError: they know the token maps of another encoder, which this one's mean nothing to, be they of the same width.
        RunError: the networks differ.
    """
    ours, theirs = ({key: side.get("config", {}).get(key) for key in ENCODER} for side in (here, there))
    check_same(
        theirs,
        ours,
        where=f"the cache that {where} was trained on",
        fix="Name a checkpoint that was trained on token maps of this cache's backbone, or --init none",
    )
    for key in ("adapter", "adapter_params", "layers", "channels"):
        if there.get(key) != here[key]:
            raise RunError(
                f"{where} has {key} {there.get(key)!r}, this stage has {here[key]!r}",
                fix="Use the same adapter, layers and parameters in every stage, name another --init, or --init none",
            )


def checkpoint_name(path: Path) -> str:
    """What the records call a checkpoint, such as "demo/stage1": never an absolute path."""
    return "/".join(path.parts[-3:-1]) if path.name == checkpoint.BEST else path.name
