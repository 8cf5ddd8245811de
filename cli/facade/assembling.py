"""Clips of many files into one prediction a file, while they come.

The one decision: clips of several files share a forward pass, but no result waits for long. A video is scored when it ends, and on the way
whenever enough frames are at hand; photos wait for each other, until there are as many as one of CLIP's batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import D2stError, MediaError
from d2st.judging import shared_doubts
from d2st.prediction import Doubt, Face, Prediction, Window
from d2st.scoring import chosen_frames, sigmoid

if TYPE_CHECKING:
    from d2st.judging import Judge
    from d2st.pipeline.build.clips import ClipEvent, EncodedClip, FileEnd
    from d2st.scoring import Scored

__all__ = ["assemble"]

ENOUGH_FRAMES = 48  # of a long video, to be scored together
PHOTOS = 16  # that are scored together at least,
WAIT_S = 0.2  # unless the first of them has waited this long, or something else comes

Score = Callable[["Sequence[EncodedClip]"], "list[Scored]"]


@dataclass
class _Track:
    """One face of a file, while its windows come in."""

    number: int
    windows: list[Window] = field(default_factory=list)
    frame_logits: list[float] = field(default_factory=list)
    timestamps_s: list[float] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass
class _Draft:
    """One file, while its clips come in."""

    path: str
    kind: str
    tracks: dict[int, _Track] = field(default_factory=dict)
    gaps: list[Window] = field(default_factory=list)  # stretches without a result
    error: D2stError | None = None  # the first clip's
    info: dict[int, dict[str, Any]] = field(default_factory=dict)  # of each track's first clip
    unscored: int = 0
    at_once: int = 0  # faces in one frame, at most


def assemble(
    events: "Iterable[ClipEvent | FileEnd]",
    files: Sequence[tuple[str, str]],
    *,
    score: Score,
    clip_frames: int,
    judge: "Judge",
    on_window: Callable[[str, Window], None] = lambda path, window: None,
) -> Iterator[Prediction | D2stError]:
    """One result a file, in order, each as soon as its last clip is scored.

    Args:
        events: as `FrontEnd.encode_clips` gives them.
        files: (path, kind) of file 0, 1, ...
        score: as `Scorer.score`.
        clip_frames: T that the detector looks at.
        on_window: told of each clip as it is scored, and of each stretch that can't be.
    """
    from d2st.pipeline.build.clips import FileEnd

    drafts: dict[int, _Draft] = {}
    ended: deque[tuple[_Draft, FileEnd]] = deque()
    waiting: list[tuple[_Draft, ClipEvent]] = []
    since, frames = 0.0, 0
    for event in events:
        draft = drafts.setdefault(event.file, _Draft(*files[event.file]))
        last = isinstance(event, FileEnd)
        if last:
            ended.append((drafts.pop(event.file), event))
        elif isinstance(event.clip, D2stError):
            on_window(draft.path, _gap(draft, event))
        else:
            since = since if waiting else monotonic()
            waiting.append((draft, event))
            draft.unscored += 1
            frames += len(event.clip.crops)
        # photos alone wait, and for photos alone
        patient = draft.kind == "image" and frames < PHOTOS and monotonic() - since < WAIT_S
        if waiting and (frames >= ENOUGH_FRAMES or (ended and not patient)):
            _score(waiting, score=score, clip_frames=clip_frames, judge=judge, on_window=on_window)
            waiting, frames = [], 0
        while ended and not ended[0][0].unscored:
            yield _finish(*ended.popleft(), judge=judge)
    if waiting:
        _score(waiting, score=score, clip_frames=clip_frames, judge=judge, on_window=on_window)
    yield from (_finish(draft, end, judge=judge) for draft, end in ended)


def _gap(draft: _Draft, event: "ClipEvent") -> Window:
    error = event.clip
    draft.error = draft.error or error
    gap = Window(event.start_s, event.end_s, None, None, 0, getattr(error, "reason", "unusable"))
    draft.gaps.append(gap)
    return gap


def _score(
    waiting: "list[tuple[_Draft, ClipEvent]]",
    *,
    score: Score,
    clip_frames: int,
    judge: "Judge",
    on_window: Callable[[str, Window], None],
) -> None:
    """Score clips and put them into their drafts."""
    for (draft, event), found in zip(waiting, score([event.clip for _, event in waiting]), strict=True):
        clip = event.clip
        track = draft.tracks.setdefault(clip.track, _Track(clip.track))
        draft.info.setdefault(clip.track, clip.info)
        draft.at_once = max(draft.at_once, clip.info["face"]["faces_max"])
        probability = judge.probability(draft.kind, found.logit)
        doubts = _picture_doubts(clip, clip_frames)
        window = Window(event.start_s, event.end_s, found.logit, probability, len(found.frame_logits), None, doubts)
        track.windows.append(window)
        track.frame_logits += found.frame_logits
        for k in chosen_frames(len(clip.crops), clip_frames):
            track.timestamps_s.append(float(clip.timestamps_s[k]))
            track.boxes.append(tuple(map(float, clip.boxes[k])))
        draft.unscored -= 1
        on_window(draft.path, window)


def _picture_doubts(clip: "EncodedClip", clip_frames: int) -> tuple[Doubt, ...]:
    from d2st.pipeline.faces.quality import doubts

    few = len(clip.crops) < clip_frames  # as many as the detector looks at are not few, however few these are
    return tuple(Doubt(code, words) for code, words in doubts(clip.crops, clip.info) if few or code != "few_frames")


def _finish(draft: _Draft, end: "FileEnd", *, judge: "Judge") -> Prediction | D2stError:
    if not draft.tracks:
        return end.error or draft.error or MediaError("empty", f"{draft.path} holds nothing to score")
    faces = [_face(track, draft.kind, judge=judge) for track in draft.tracks.values()]
    faces.sort(key=lambda face: -face.logit)
    chosen, kind = faces[0], draft.kind
    windows = sorted((*chosen.windows, *draft.gaps), key=lambda window: window.start_s)
    cut = judge.threshold(kind)
    notes = [cut.note] if cut.note else []
    if len(faces) > 1:
        notes.append(f"{len(faces)} faces: the score is that of the most suspicious one, face {chosen.number}")
    notes += judge.about_windows(kind, windows)
    if draft.gaps:
        reasons = ", ".join(sorted({gap.reason for gap in draft.gaps}))
        notes.append(f"{len(draft.gaps)} of {len(windows)} windows could not be scored ({reasons})")
    doubts = [*chosen.doubts]
    if len(faces) == 1 and draft.at_once > 1:
        doubts.append(Doubt("several_faces", f"one face was followed, of up to {draft.at_once} at once"))
    if end.error is not None:
        doubts.append(Doubt("frames_lost", f"the file breaks off after {end.duration_s or 0:.1f} s: {end.error.message}"))
    return Prediction(
        path=draft.path,
        kind=kind,
        score=chosen.score,
        logit=chosen.logit,
        probability=chosen.probability,
        threshold=judge.probability(kind, cut.logit),
        fake=chosen.logit > cut.logit,
        frame_scores=chosen.frame_scores,
        timestamps_s=chosen.timestamps_s,
        windows=tuple(windows),
        faces=tuple(faces),
        doubts=tuple(doubts),
        duration_s=end.duration_s,
        notes=tuple(notes),
        info=draft.info[chosen.number],
    )


def _face(track: _Track, kind: str, *, judge: "Judge") -> Face:
    logit = sum(window.logit for window in track.windows) / len(track.windows)
    doubts = (*shared_doubts(track.windows), *judge.doubts(kind, logit))
    scores = tuple(map(sigmoid, track.frame_logits))
    return Face(
        number=track.number,
        logit=logit,
        score=sigmoid(logit),
        probability=judge.probability(kind, logit),
        windows=tuple(track.windows),
        frame_scores=scores,
        timestamps_s=tuple(track.timestamps_s),
        boxes=tuple(track.boxes),
        doubts=doubts,
    )
