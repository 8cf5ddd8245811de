"""The parts of a stage before its first step: the clip length, what its checkpoints will say, the network, the optimiser, the loader."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2st.adapter.nets import adapter_params
from d2st.adapter.train import checkpoint
from d2st.adapter.train.loop import Event, Trainer
from d2st.adapter.train.optim import Ema, make_optimizer, unmatched_rates
from d2st.adapter.train.recipe import Recipe
from d2st.adapter.train.seeds import seed_everything
from d2st.adapter.train.select import Selection, to_rows
from d2st.adapter.train.whiten import fit_whitening
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import ConfigError, RunError

__all__ = ["clip_length", "describe", "make_trainer", "start_from"]


def clip_length(recipe: Recipe, selection: Selection, on_event: Event) -> int:
    """T: the recipe's, or what the cache has where that is less (frames that no clip has need no place)."""
    most = int(selection.train["frames_cached"].max())  # type: ignore[arg-type]
    if recipe.data.frames <= most:
        return recipe.data.frames
    on_event(
        {
            "event": "note",
            "message": f"the cache holds at most {most} frames a sample: clips have {most}, not {recipe.data.frames}",
        }
    )
    return most


def describe(store: Store, recipe: Recipe, *, clip_frames: int) -> dict[str, Any]:
    """What a checkpoint says of itself; checks the adapter's name, layers and parameters on the way."""
    wanted, cached = recipe.adapter.layers, store.tokens.layers
    missing = [] if wanted == "all" else [layer for layer in wanted if layer not in cached]
    if missing:
        raise ConfigError(f"the cache has no layer {', '.join(missing)}", fix=f"It has {', '.join(cached)}; set adapter.layers")
    params = adapter_params(recipe.adapter.name, recipe.adapter.params)
    return {
        "stage": recipe.stage,
        "adapter": recipe.adapter.name,
        "adapter_params": params.model_dump(),  # defaults spelt out: a later version may have others
        "layers": [layer for layer in cached if wanted == "all" or layer in wanted],
        "channels": store.tokens.channels,
        "grid": list(store.tokens.grid),
        "clip_frames": clip_frames,
        "fingerprint": store.tokens.fingerprint,
        "config": store.tokens.config,
        "notes": store.tokens.notes,
        "seed": recipe.seed,
        "label_smoothing": recipe.loss.label_smoothing,
        "shuffled_labels": recipe.data.shuffle_labels,
    }


def make_trainer(
    store: Store,
    recipe: Recipe,
    selection: Selection,
    meta: dict[str, Any],
    *,
    device: str,
    init_checkpoint: Path | None,
    on_event: Event,
    in_memory: bool = False,
) -> tuple[Trainer, str | None]:
    """Network, optimiser and loader, and the name of what the weights come from. Raises ConfigError as `TokenLoader` does."""
    seed_everything(recipe.seed)
    stats = store.tokens.stats
    detector = checkpoint.build_detector(meta, stats)
    init = None
    if init_checkpoint is not None:
        init = start_from(detector, init_checkpoint, meta, on_event)
    detector = detector.to(device)
    optim = recipe.optim
    for part in unmatched_rates(detector, optim.rates):
        on_event(
            {
                "event": "note",
                "message": f"adapter {recipe.adapter.name} has no parameter with {part!r} in its name (optim.rates)",
            }
        )
    frames = sum(int(samples["frames_cached"].sum()) for samples in (selection.train, selection.val))
    source = TokenLoader(
        store, meta["layers"], device=device, maps=detector.adapter.needs_maps, in_memory=in_memory, frames=frames
    )
    rows = to_rows(selection.train)
    if init is None:
        fit_whitening(detector.adapter, source, rows, seed=recipe.seed)
    trainer = Trainer(
        recipe=recipe,
        detector=detector,
        optimizer=make_optimizer(detector, lr=optim.lr, weight_decay=optim.weight_decay, rates=optim.rates),
        ema=Ema(detector, decay=optim.ema) if optim.ema else None,
        source=source,
        rows=rows,
        stats={
            name: (torch.from_numpy(mean).to(device), torch.from_numpy(std).to(device)) for name, (mean, std) in stats.items()
        },
        clip_frames=meta["clip_frames"],
        device=torch.device(device),
    )
    return trainer, init


def start_from(detector: nn.Module, path: Path, meta: Mapping[str, Any], on_event: Event) -> str:
    """Load the weights of an earlier stage, head included; returns its name for the records. Raises RunError where they don't fit."""
    there = checkpoint.read_meta(path)
    for key in ("adapter", "adapter_params", "layers", "channels"):
        if there.get(key) != meta[key]:
            raise RunError(
                f"{path} has {key} {there.get(key)!r}, this stage has {meta[key]!r}",
                fix="Use the same adapter, layers and parameters in every stage, name another --init, or --init none",
            )
    checkpoint.load_weights(detector, path)
    name = "/".join(path.parts[-3:-1]) if path.name == checkpoint.BEST else path.name  # never an absolute path
    if there.get("fingerprint") != meta["fingerprint"]:
        on_event({"event": "note", "message": f"{name} was trained on token maps of another fingerprint"})
    return name
