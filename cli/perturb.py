"""The scores of spoiled crops: read from the cache, changed, encoded as the cache was (pipeline) and given to the detector (adapter)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from d2st.adapter.nets.detector import Detector
    from d2st.cache.store import Store
    from d2st.pipeline.clip import Encoder
    from d2st.pipeline.perturb import Perturbation

    Change = Callable[[np.ndarray, str], np.ndarray]

__all__ = ["Study", "count_frames", "estimate_s", "open_study", "score_changed"]


@dataclass(frozen=True)
class Study:
    """What to do to the crops of which stores, and who encodes and scores what comes of it.

    Attributes:
        clip_frames: T that the detector looks at, as in `score_samples`.
        max_samples: how many samples to score (`balanced_subset`); None for all.
    """

    perturbations: "Sequence[Perturbation]"
    stores: "Sequence[Store]"
    encoder: "Encoder"
    detector: "Detector"
    clip_frames: int
    max_samples: int | None


def open_study(
    names: str | None,
    stores: "Sequence[Store]",
    detector: "Detector",
    meta: Mapping[str, Any],
    *,
    max_samples: int | None,
    pretrained: str | None,
    device: str,
) -> Study | None:
    """Load what it takes to score perturbed crops.

    Args:
        names: as for `parse_perturbations`; None for no study.
        stores: open with the token sets that the detector reads.
        meta: of the detector's checkpoint.
        max_samples: as in `Study`.
        pretrained: where the backbone's weights are, if not where the build had them.

    Raises:
        UnknownNameError: there is no such perturbation.
        UsageError: `names` is empty, or None where the other options want a study.
        WeightsError: the backbone's weights are missing, or not those of the cache.
    """
    if names is None:
        if max_samples is not None or pretrained is not None:
            raise UsageError("--max-samples and --pretrained are for --perturb alone", fix="Add --perturb, or leave them out")
        return None
    from d2st.pipeline.build.encoders import encoder_like
    from d2st.pipeline.perturb import parse_perturbations

    perturbations = parse_perturbations(names)
    encoder = encoder_like(stores[0].tokens.levels[0], ",".join(meta["layers"]), pretrained, device)
    return Study(perturbations, stores, encoder, detector, meta["clip_frames"], max_samples)


def score_changed(
    study: Study,
    chosen: "Sequence[pl.DataFrame]",
    change: "Change | None",
    *,
    on_progress: Callable[[int], None] = lambda frames: None,
) -> "pl.DataFrame":
    """Predictions (`score.PREDICTIONS`) of samples whose crops are changed first; None changes nothing.

    Args:
        chosen: samples of each of the study's stores.
        change: as for `PerturbedTokens`.
        on_progress: called with the frames done.
    """
    import polars as pl

    from d2st.adapter.evaluate.score import score_samples
    from d2st.pipeline.perturb import PerturbedTokens

    made, before = [], 0
    for store, samples in zip(study.stores, chosen, strict=True):
        share = count_frames(samples, study.clip_frames)

        def report(done: int, clips: int, *, before: int = before, share: int = share) -> None:
            on_progress(before + share * done // clips)

        with PerturbedTokens(store, study.encoder, samples, change, maps=study.detector.adapter.needs_maps) as tokens:
            made.append(score_samples(study.detector, tokens, samples, clip_frames=study.clip_frames, on_progress=report))
        before += share
    return pl.concat(made)


def count_frames(samples: "pl.DataFrame", clip_frames: int) -> int:
    """How many frames scoring the samples once encodes."""
    import polars as pl

    cached = pl.col("frames_cached").cast(pl.Int64)
    seen = cached if clip_frames == 1 else pl.min_horizontal(cached, clip_frames)
    return int(samples.select(pl.when(pl.col("kind") == "image").then(1).otherwise(seen).sum()).item())


def estimate_s(study: Study, chosen: "Sequence[pl.DataFrame]") -> float:
    """Seconds that it takes to score all samples clean and at each severity.

    About a micro-batch is scored clean, once to warm up and once for the clock, and a third time with each perturbation, in the middle of
    its scale, on top.
    """
    store, samples = max(zip(study.stores, chosen, strict=True), key=lambda pair: len(pair[1]))
    longest = samples.sort("frames_cached", descending=True)
    probe = longest.head(max(1, study.encoder.micro_batch // count_frames(longest.head(1), study.clip_frames)))
    alone = replace(study, stores=[store])

    def try_all(crops: "np.ndarray", sample: str) -> "np.ndarray":
        for perturbation in study.perturbations:
            perturbation.apply(crops, sample, severity=3)
        return crops

    seconds = []
    for change in (None, None, try_all):
        begin = perf_counter()
        score_changed(alone, [probe], change)
        seconds.append((perf_counter() - begin) / count_frames(probe, study.clip_frames))
    _, clean, changed = seconds
    steps = sum(len(perturbation.values) for perturbation in study.perturbations)
    a_frame = clean * (1 + steps) + max(0.0, changed - clean) * steps / len(study.perturbations)
    return a_frame * sum(count_frames(part, study.clip_frames) for part in chosen)
