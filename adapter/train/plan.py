"""What a stage will train on and as what: all that can be wrong with a recipe and a cache is found here, before a network is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.nets import adapter_params
from d2st.adapter.train import rundir
from d2st.adapter.train.layers import resolve_layers
from d2st.adapter.train.mix import LABELS, mix_note
from d2st.adapter.train.recipe import Mix, Recipe
from d2st.adapter.train.sampler import Step, epoch_steps
from d2st.adapter.train.select import Selection, select_samples, to_rows
from d2st.adapter.train.span import clip_seconds
from d2st.adapter.train.views import plan_views
from d2st.cache import Store
from d2st.cache.errors import ConfigError

__all__ = ["Plan", "describe", "plan_stage"]

OFF_BY = 0.05  # of a share, from where on what an epoch shows is told beside what a mix chose


@dataclass(frozen=True)
class Plan:
    """A stage that may start: its samples, what its checkpoints will say of themselves, and what the user should know.

    sources: the digests by which a resumed run is recognised: "cache", "manifest", and "views" by name where there are any.
    steps: optimiser steps in an epoch.
    """

    recipe: Recipe
    selection: Selection
    meta: dict[str, Any]
    sources: dict[str, Any]
    steps: int
    notes: tuple[str, ...]


def plan_stage(store: Store, recipe: Recipe, samples: pl.DataFrame, *, ranks: int = 1) -> Plan:
    """Decide all that can be decided without a network; writes nothing.

    Args:
        samples: what `Store.samples` gives. ranks: processes that share every batch.

    Raises:
        ConfigError, ManifestError, UnknownNameError: recipe, samples and cache do not go together.
    """
    data = recipe.data
    selection = select_samples(
        samples,
        kinds=data.kinds,
        max_samples=data.max_samples,
        mix=data.mix.model_dump(),
        seed=recipe.seed,
        shuffle_labels=data.shuffle_labels,
        allow_identity_overlap=data.allow_identity_overlap,
        need_all_kinds=recipe.stage == 3,
    )
    cached = int(selection.train["frames_cached"].max())  # type: ignore[arg-type]
    notes = [mix_note(selection.mix), _statistics_note(store, samples)]
    if cached < data.frames:  # frames that no clip has need no place
        notes.append(f"the cache holds at most {cached} frames a sample: clips have {cached}, not {data.frames}")
    steps = epoch_steps(
        to_rows(selection.train),
        stage=recipe.stage,
        batch_size=recipe.optim.batch_size,
        accumulate=recipe.optim.accumulate,
        balance=data.balance,
        seed=recipe.seed,
        epoch=0,
    )
    notes.append(_drawn_note(selection.train, steps, data.mix))
    smallest = min(len(pick) for step in steps for picks in step for pick in picks)
    if smallest < ranks:
        raise ConfigError(
            f"stage {recipe.stage} has batches of {smallest}, too few to share among {ranks} processes",
            fix="Raise optim.batch_size, or start fewer processes",
        )
    meta = describe(store, recipe, clip_frames=min(cached, data.frames))
    meta["clip_s"] = clip_seconds(store, selection.train)
    views = plan_views(store, data.views, selection.train, layers=meta["layers"])
    seen = {"views": views} if views else {}
    return Plan(
        recipe=recipe,
        selection=selection,
        meta={**meta, **seen},
        sources={"cache": store.tokens.fingerprint, "manifest": rundir.manifest_digest(samples), **seen},
        steps=len(steps),
        notes=tuple(note for note in notes if note),
    )


def _drawn_note(train: pl.DataFrame, steps: Sequence[Step], mix: Mix) -> str | None:
    """One line where an epoch shows data sets or labels in other shares than `mix` chose: `balance` draws both labels equally often."""
    shown = train[np.concatenate([pick for step in steps for picks in step for pick in picks])]
    for axis, named in (("label", mix.label), ("dataset", mix.dataset)):
        chosen, drawn = ({name: n / len(part) for name, n in part[axis].value_counts().rows()} for part in (train, shown))
        if named and max(abs(share - drawn.get(name, 0.0)) for name, share in chosen.items()) > OFF_BY:
            names = {name: LABELS[name] if axis == "label" else name for name in sorted(chosen)}
            said = [", ".join(f"{names[k]} {100 * of.get(k, 0.0):.0f} %" for k in names) for of in (chosen, drawn)]
            return f"data.mix gives {said[0]} of the samples, an epoch shows {said[1]}: data.balance draws both labels equally often"
    return None


def _statistics_note(store: Store, samples: pl.DataFrame) -> str | None:
    """One line where the channel statistics rest on samples that are held out here: a manifest of the user's own has other splits."""
    if not (store.path / "manifest.parquet").is_file():
        return None
    trained, name = pl.col("split").cast(pl.String) == "train", pl.col("sample_id").cast(pl.String)
    held_out = samples.filter(~trained).join(store.manifest().filter(trained), on=name, how="semi").height
    if not held_out:
        return None
    return (
        f"the cache's channel statistics count {held_out:,} samples that are held out here, for it was built with other splits; "
        "`d2st cache build` with this manifest counts them anew"
    )


def describe(store: Store, recipe: Recipe, *, clip_frames: int) -> dict[str, Any]:
    """What a checkpoint says of itself; checks the adapter's name, layers and parameters on the way."""
    params = adapter_params(recipe.adapter.name, recipe.adapter.params)
    return {
        "stage": recipe.stage,
        "adapter": recipe.adapter.name,
        "adapter_params": params.model_dump(),  # defaults spelt out: a later version may have others
        "layers": resolve_layers(recipe.adapter.layers, store.tokens.layers),
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
