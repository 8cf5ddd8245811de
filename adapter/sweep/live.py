"""A trial that lives: its stage, begun like any other, and what decides whom it can share with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from d2st.adapter.nets.read import PatchRead
from d2st.adapter.sweep.shared_read import Need, SharedReads, TrialSource
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.train.begun import Begun, begin_stage
from d2st.adapter.train.ranks import Ranks
from d2st.adapter.train.select import Rows
from d2st.adapter.train.trainer import BatchSource, Event, Progress, Trainer
from d2st.adapter.train.whiten import fit_whitening
from d2st.cache import Store
from d2st.cache.errors import D2stError

__all__ = ["Live", "Whitener", "begin_trial", "lane_key", "stack_key"]


@dataclass
class Live:
    """A trial between its begin and its end. `error`: what it failed by, if it has."""

    trial: Trial
    begun: Begun
    need: Need
    tell: Event
    error: D2stError | None = None
    epoch_s: float = field(default=0.0)  # of this epoch, its share

    @property
    def trainer(self) -> Trainer:
        return self.begun.trainer

    @property
    def progress(self) -> Progress:
        return self.begun.progress


class Whitener:
    """`fit_whitening`, which fits each layer once for all trials that would fit it to the same frames."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, adapter: nn.Module, source: BatchSource, rows: Rows, *, seed: int) -> None:
        """As `fit_whitening`."""
        reads: dict[str, PatchRead] = getattr(adapter, "whitened", {})
        key = (seed, rows.ids, rows.start.tobytes(), rows.frames.tobytes())
        if any((layer, *key) not in self._known for layer in reads):
            fit_whitening(adapter, source, rows, seed=seed)
            self._known |= {(layer, *key): read.whitening.clone() for layer, read in reads.items()}
        for layer, read in reads.items():
            read.whitening.copy_(self._known[layer, *key])


def begin_trial(
    store: Store, trial: Trial, *, reads: SharedReads, device: str, on_event: Event, whitener: Callable[..., None]
) -> Live:
    """Begin a trial's stage, or go on with it. Raises D2stError as `train_stage` does."""

    def tell(event: dict[str, Any]) -> None:
        on_event({**event, "trial": trial.number})

    sources: list[TrialSource] = []

    def open_source(detector: nn.Module) -> TrialSource:
        need = Need(tuple(trial.plan.meta["layers"]), detector.adapter.needs_maps, tuple(trial.plan.recipe.data.views))
        sources.append(TrialSource(reads, need))
        return sources[0]

    begun = begin_stage(
        store,
        trial.plan,
        run_dir=trial.folder,
        init_checkpoint=trial.init,
        device=device,
        ranks=Ranks(),
        on_event=tell,
        open_source=open_source,
        whitener=whitener,
    )
    begun.keeper.keep_epochs(begun.progress.epoch)
    return Live(trial, begun, sources[0].need, tell)


def lane_key(live: Live) -> tuple[Any, ...]:
    """Equal for trials whose batches show the same samples from here on."""
    plan, progress, optim = live.trial.plan, live.progress, live.trial.plan.recipe.optim
    return (
        progress.epoch,
        progress.step,
        plan.recipe.stage,
        plan.recipe.seed,
        optim.batch_size,
        optim.accumulate,
        plan.recipe.data.model_dump_json(exclude={"frames"}),
        plan.sources["manifest"],
        live.need.views,
    )


def input_key(live: Live) -> tuple[Any, ...]:
    """Equal for trials of a lane that draw the same frames."""
    augment = live.trial.plan.recipe.augment
    return (live.trainer.clip_frames, augment.jitter, augment.reverse, augment.frame_drop)


def stack_key(live: Live) -> tuple[Any, ...] | None:
    """Equal for trials of a lane that one forward pass can serve; None where there are no others: each batch or each dropout is its own."""
    recipe, meta = live.trial.plan.recipe, live.trial.plan.meta
    augment = recipe.augment
    if augment.brightness or augment.contrast or augment.interpolate or meta["adapter_params"].get("dropout"):
        return None
    return (
        *input_key(live),
        meta["adapter"],
        repr(sorted(meta["adapter_params"].items())),
        tuple(meta["layers"]),
        live.trainer.dtype,
        recipe.optim.batch_size,  # which all of a lane share, but what is measured is kept for others: memory and time go by it
        bool(recipe.stage == 3 and recipe.align.consistency),
    )
