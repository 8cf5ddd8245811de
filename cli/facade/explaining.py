"""From media files to explanations.

A long video is explained by one of its windows, the most suspicious one: evidence is of a clip, as the network saw it. Of the others only
the logits are kept, so memory does not grow with the length of the video.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from d2st.cache.errors import ConfigError, D2stError, MediaError
from d2st.detection import AUTO, media_kind
from d2st.explanation import Explanation
from d2st.scoring import NetworkScorer, chosen_frames, sigmoid

if TYPE_CHECKING:
    from d2st.adapter.explain import Evidence
    from d2st.detection import Detector
    from d2st.pipeline.build.clips import ClipEvent, EncodedClip

__all__ = ["clip_evidence", "explain_files", "network_scorer"]


def explain_files(
    detector: "Detector",
    paths: Iterable[Path | str],
    *,
    window_s: float | Literal["auto"] | None = AUTO,
    workers: int | None = None,
) -> Iterator[Explanation | D2stError]:
    """Explain files in order; one that can't be used gives its error in place of an explanation, and the rest goes on.

    Args:
        window_s, workers: as in `Detector.predict_files`.

    Raises:
        ConfigError: the detector reads no token maps, or is an exported graph.
    """
    from d2st.pipeline.build.clips import FileEnd

    scorer = network_scorer(detector)
    files = [(str(path), media_kind(Path(path))) for path in paths]
    window_s = detector.clip_s if window_s == AUTO else window_s
    best: tuple[float, ClipEvent] | None = None
    error: D2stError | None = None
    windows = 0
    for event in detector.opened.front_end.encode_clips(files, window_s=window_s, workers=workers):
        if isinstance(event, FileEnd):
            found = best and _explained(detector, scorer, files[event.file], best[1], windows=windows)
            yield found or event.error or error or _nothing(files[event.file][0])
            best, error, windows = None, None, 0
        elif isinstance(event.clip, D2stError):
            error = error or event.clip
        else:
            windows += 1
            logit = scorer.score([event.clip])[0].logit
            if best is None or logit > best[0]:
                best = (logit, event)


def network_scorer(detector: "Detector") -> NetworkScorer:
    """The network behind a detector. Raises ConfigError when it can't be looked into."""
    scorer = detector.opened.scorer
    if not isinstance(scorer, NetworkScorer):
        raise ConfigError("an exported detector can't be looked into", fix="Explain the run or checkpoint that it came from")
    if not scorer.network.adapter.needs_maps:
        raise ConfigError(
            "this detector reads CLS tokens alone: a score of the whole frame, without a place to point at",
            fix="Explain a run whose adapter reads token maps, such as d2st, st_adapter, attentive_probe or meanpool_mlp",
        )
    return scorer


def clip_evidence(scorer: NetworkScorer, clip: "EncodedClip") -> "tuple[list[int], Evidence]":
    """Which of a clip's frames the network looks at, and its evidence of these."""
    from d2st.adapter.explain import explain

    rows = chosen_frames(len(clip.crops), scorer.clip_frames)
    tokens, cls = scorer.features(clip, rows)
    return rows, explain(scorer.network, tokens, cls, frames_alone=scorer.clip_frames == 1)


def _explained(
    detector: "Detector", scorer: NetworkScorer, file: tuple[str, str], event: "ClipEvent", *, windows: int
) -> Explanation:
    from d2st.judging import Judge

    (path, kind), clip, judge = file, event.clip, Judge(detector.operating)
    rows, evidence = clip_evidence(scorer, clip)
    meta, cut = detector.opened.meta, judge.threshold(kind).logit
    return Explanation(
        path=path,
        kind=kind,
        start_s=event.start_s,
        end_s=event.end_s,
        windows=windows,
        logit=evidence.logit,
        score=sigmoid(evidence.logit),
        probability=judge.probability(kind, evidence.logit),
        threshold=judge.probability(kind, cut),
        fake=evidence.logit > cut,
        frame_probabilities=tuple(judge.probability(kind, float(logit)) for logit in evidence.frame_logits),
        timestamps_s=tuple(clip.timestamps_s[row] for row in rows),
        crops=clip.crops[rows],
        boxes=clip.boxes[rows],
        matrices=clip.matrices[rows],
        evidence=evidence,
        detector=f"{meta['adapter']} on {meta['config']['backbone']}, stage {meta['stage']}",
    )


def _nothing(path: str) -> D2stError:
    return MediaError("no_face", f"{path}: nothing to explain")
