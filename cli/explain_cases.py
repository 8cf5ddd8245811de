"""The fakes that `d2st explain --check` measures on: crops, where they were manipulated, and what they were made from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import ConfigError, D2stError

if TYPE_CHECKING:
    import numpy as np

    from d2st.adapter.explain.curves import Score
    from d2st.detection import Detector
    from d2st.pipeline.build.clips import EncodedClip
    from d2st.pipeline.corpus import Sample
    from d2st.scoring import NetworkScorer

__all__ = ["OTHER", "Case", "choose_fakes", "crop_scores", "plan_of", "prepare", "with_others"]

OTHER = "another clip's"


@dataclass(frozen=True, eq=False)
class Case:
    """One fake: its row of the manifest, crops and base (T,S,S,3), masks (T,S,S), and maps (T,H,W) by name."""

    row: dict[str, Any]
    crops: "np.ndarray"
    base: "np.ndarray"
    masks: "np.ndarray"
    maps: "dict[str, np.ndarray]"


def plan_of(corpus: Path) -> "dict[str, Sample]":
    """What the corpus holds, by path below its root."""
    from d2st.pipeline.corpus import plan_corpus

    try:
        record = json.loads((corpus / "corpus.json").read_bytes())
        return {sample.path: sample for sample in plan_corpus(record["seed"], record["identities"])}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{corpus} is no corpus with masks: {error}", fix="Name the folder that d2st demo made") from error


def choose_fakes(
    detector: "Detector", path: Path, planned: "Mapping[str, Sample]", *, split: str, max_samples: int | None
) -> "list[dict[str, Any]]":
    """Rows of the split's fakes that the corpus knows."""
    import polars as pl

    from d2st.adapter.evaluate.run import choose_samples, open_matching

    meta = detector.opened.meta
    [samples], _ = choose_samples([open_matching(path, config=meta["config"], layers=meta["layers"])], split=split)
    fakes = samples.filter((pl.col("label") == 1) & pl.col("path").is_in(list(planned))).sort("sample_id")
    if fakes.is_empty():
        raise ConfigError(
            f"the corpus holds none of the fakes of {path.name}'s {split} split", fix="Name the corpus it is built from"
        )
    turn = pl.int_range(pl.len()).over("kind", "method")  # one of each before a second of any
    return fakes.with_columns(turn=turn).sort("turn", "sample_id").head(max_samples or len(fakes)).to_dicts()


def prepare(
    detector: "Detector",
    scorer: "NetworkScorer",
    corpus: Path,
    chosen: "list[dict[str, Any]]",
    planned: "Mapping[str, Sample]",
    *,
    genuine: bool,
    workers: int | None,
) -> "Iterator[Case | D2stError]":
    from d2st.adapter.explain.curves import blurred
    from d2st.adapter.explain.faithful import OWN, centre_map
    from d2st.explaining import clip_evidence
    from d2st.pipeline.build.clips import FileEnd

    files = [(str(corpus / row["path"]), str(row["kind"])) for row in chosen]
    found: EncodedClip | D2stError | None = None
    for event in detector.opened.front_end.encode_clips(files, workers=workers):
        if not isinstance(event, FileEnd):
            found = event.clip
            continue
        row, clip = chosen[event.file], event.error or found
        if isinstance(clip, D2stError):
            yield clip
            continue
        rows, evidence = clip_evidence(scorer, clip)
        total, crops = evidence.relevance.total, clip.crops[rows]
        maps = {OWN: total, "centre": centre_map(total.shape)}
        if evidence.attention is not None:
            maps["attention"] = evidence.attention.total
        sample = planned[row["path"]]
        masks = _masks(detector, corpus, sample, clip, rows)
        base = _genuine(detector, corpus, sample, clip, rows) if genuine else blurred(crops)
        yield Case(row, crops, base, masks, maps)


def crop_scores(detector: "Detector", scorer: "NetworkScorer") -> "Score":
    """Logits (B,) of clips (B,T,S,S,3): encoded as the cache was, all of one call together."""
    import numpy as np

    from d2st.pipeline.build.clips import EncodedClip
    from d2st.pipeline.clip import Tokens

    encoder = detector.opened.front_end.encoder

    def score(clips: "np.ndarray") -> "np.ndarray":
        frames = clips.shape[1]
        arrays = encoder.encode(clips.reshape(-1, *clips.shape[2:])).arrays  # (B*T, ...) each
        times, nowhere = tuple(map(float, range(frames))), np.zeros((frames, 4), np.float32)
        encoded = []
        for number, crops in enumerate(clips):
            rows = slice(number * frames, (number + 1) * frames)
            tokens = Tokens({name: values[rows] for name, values in arrays.items()}, 0)
            encoded.append(EncodedClip(crops, tokens, {}, nowhere, np.zeros((frames, 2, 3)), times, 1))
        return np.array([found.logit for found in scorer.score(encoded)])

    return score


def with_others(cases: "Iterator[Case | D2stError]") -> "Iterator[Case | D2stError]":
    """Give each case the map of the next one of its kind too, and the last one that of the first."""
    first: dict[str, Case] = {}
    waiting: dict[str, Case] = {}
    for case in cases:
        if isinstance(case, D2stError):
            yield case
            continue
        kind = str(case.row["kind"])
        first.setdefault(kind, case)
        if kind in waiting:
            yield _joined(waiting[kind], case)
        waiting[kind] = case
    for kind, case in waiting.items():
        others = [other for other in (first[kind], *first.values()) if other is not case]
        yield _joined(case, others[0]) if others else ConfigError("one fake alone can't be compared", fix="Take two or more")


def _joined(case: Case, other: Case) -> Case:
    import numpy as np

    from d2st.adapter.explain.faithful import OWN

    theirs = other.maps[OWN]
    taken = theirs[np.arange(len(case.crops)) * len(theirs) // len(case.crops)]  # T may differ
    return replace(case, maps={**case.maps, OTHER: taken})


def _masks(detector: "Detector", corpus: Path, sample: "Sample", clip: "EncodedClip", rows: list[int]) -> "np.ndarray":
    """Where the crops `rows` were manipulated, (T,S,S) in 0..1."""
    from d2st.adapter.explain.pointing import crop_masks
    from d2st.pipeline.corpus import read_masks

    masks = read_masks(corpus, sample)  # (T,64,64), of every frame
    taken = masks[[clip.info["indices"][row] for row in rows]]
    frame_side = clip.info["media"]["width"]
    return crop_masks(taken, clip.matrices[rows], frame_side=frame_side, side=clip.crops.shape[1])


def _genuine(detector: "Detector", corpus: Path, sample: "Sample", clip: "EncodedClip", rows: list[int]) -> "np.ndarray":
    """The same crops of the recording that a fake was made from, (T,S,S,3): same frames, same places."""
    from d2st.pipeline.build.crop import crop_frames
    from d2st.pipeline.corpus import Sample
    from d2st.pipeline.faces import cut_out
    from d2st.pipeline.media import read_media

    front_end = detector.opened.front_end
    settings = front_end.settings
    recording = Sample(sample.split, "real", sample.kind, sample.identity, sample.take)
    frames = read_media(corpus / recording.path, sample.kind, frames=settings.frames, sampling=settings.sampling)
    if clip.info["face"]["aligned_by"] == "none":  # whole pictures are crops
        return crop_frames(frames, front_end.detector, settings)[0][rows]
    images = dict(zip(frames.indices, frames.images, strict=True))
    wanted = [clip.info["indices"][row] for row in rows]
    return cut_out([images[index] for index in wanted], list(clip.matrices[rows]), size=settings.size)
