"""From clips to predictions: windows, faces, gaps, doubts; and no result waits for files that come later."""

from itertools import count

import numpy as np
import pytest

from d2st.adapter.evaluate.operating import Operating
from d2st.assembling import assemble
from d2st.cache.errors import MediaError
from d2st.judging import Judge
from d2st.pipeline.build.clips import ClipEvent, EncodedClip, FileEnd
from d2st.scoring import Scored, sigmoid

POINTS = {"temperature": 2.0, "reason": None, "real": [-1.0, 0.0, 1.0, 2.0], "fake": [1.5, 3.0], "n_real": 4, "n_fake": 2}
FACE = {"coverage": 1.0, "interpolated": 0, "tracks": 1, "faces_max": 1, "upscale": 0.5, "outside": 0.0, "frames": 4, "kept": 4}


def clip(logit, *, frames=4, at=0.0, track=1, faces=1):
    """A clip that `score` gives this logit; its frames differ by a tenth."""
    crops = np.full((frames, 8, 8, 3), 128, np.uint8)
    times = tuple(at + k / 4 for k in range(frames))
    media = {"frames_lost": 0, "frame_count": 100, "fps": 25.0}
    info = {
        "face": {**FACE, "frames": frames, "kept": frames, "tracks": faces, "faces_max": faces},
        "decoded": frames,
        "media": media,
        "logit": logit,
        "timestamps_s": times,
    }
    boxes = np.tile(np.float32([1, 2, 3, 4]), (frames, 1))
    return EncodedClip(crops, None, info, boxes, np.zeros((frames, 2, 3)), times, track)


def score(clips):
    return [Scored(c.info["logit"], tuple(c.info["logit"] + k / 10 for k in range(len(c.crops)))) for c in clips]


def end(number, *, error=None, duration_s=None, windowed=False):
    return FileEnd(number, error, duration_s, 100, windowed)


def run(events, kinds, *, points=POINTS, fpr=None, clip_frames=4, **options):
    files = [(f"file{k}", kind) for k, kind in enumerate(kinds)]
    judge = Judge(Operating({"video": points, "image": points} if points else {}), fpr=fpr)
    return assemble(iter(events), files, score=score, clip_frames=clip_frames, judge=judge, **options)


def one(events, kind="video", **options):
    (found,) = run(events, [kind], **options)
    return found


def test_a_clip_is_its_file():
    found = one([ClipEvent(0, clip(3.0), 0.0, 1.0), end(0, duration_s=1.0)])
    assert (found.logit, found.score, found.probability) == (3.0, sigmoid(3.0), sigmoid(1.5))
    assert found.fake
    assert found.frame_scores == tuple(sigmoid(3.0 + k / 10) for k in range(4))
    assert found.timestamps_s == (0.0, 0.25, 0.5, 0.75)
    assert found.faces[0].boxes[0] == (1.0, 2.0, 3.0, 4.0)
    assert [(w.start_s, w.end_s, w.logit, w.frames) for w in found.windows] == [(0.0, 1.0, 3.0, 4)]
    assert found.notes == ()


def test_a_long_video_is_the_mean_of_its_windows_and_gaps_stay_visible():
    lost = MediaError("no_face", "file0: no face")
    events = [
        ClipEvent(0, clip(4.0), 0.0, 1.0),
        ClipEvent(0, lost, 1.0, 2.0),
        ClipEvent(0, clip(0.0, at=2.0), 2.0, 3.0),
        ClipEvent(0, clip(2.0, at=3.0), 3.0, 4.0),
        end(0, duration_s=4.0, windowed=True),
    ]
    found = one(events, fpr=0.3)  # one of the four reals: threshold 1
    assert found.logit == pytest.approx(2.0)
    assert [w.reason for w in found.windows] == [None, "no_face", None, None]
    assert len(found.frame_scores) == len(found.timestamps_s) == 12
    assert any(
        "2 of 3 windows lie above" in note and "about 0.8" in note and "0.0-1.0 s, 3.0-4.0 s" in note for note in found.notes
    )
    assert any("no_face" in note for note in found.notes)


def test_the_most_suspicious_face_counts():
    events = [
        ClipEvent(0, clip(-3.0, track=1), 0.0, 1.0),
        ClipEvent(0, clip(1.0, track=2), 0.0, 1.0),
        ClipEvent(0, clip(5.0, track=2, at=1.0), 1.0, 2.0),
        end(0, duration_s=2.0, windowed=True),
    ]
    found = one(events)
    assert [(face.number, face.logit, len(face.windows)) for face in found.faces] == [(2, 3.0, 2), (1, -3.0, 1)]
    assert found.logit == 3.0
    assert any("most suspicious" in note for note in found.notes)


def test_faces_that_nobody_looked_at_are_told():
    def doubts(*clips):
        return {doubt.code: doubt.words for doubt in one([*(ClipEvent(0, c, 0.0, 1.0) for c in clips), end(0)]).doubts}

    assert "several_faces" not in doubts(clip(4.0))
    assert "of up to 3" in doubts(clip(4.0), clip(4.0, faces=3))["several_faces"]  # in the second window alone
    assert "several_faces" not in doubts(clip(4.0, faces=2), clip(5.0, track=2, faces=2))  # each has its score


def test_what_can_not_be_scored_is_its_error():
    lost, broken = MediaError("no_face", "a"), MediaError("truncated", "b")
    assert one([ClipEvent(0, lost, 0, 0), end(0)]) is lost
    assert one([end(0, error=broken)]) is broken


def test_a_file_that_breaks_off_keeps_what_came_before():
    found = one([ClipEvent(0, clip(1.0), 0.0, 1.0), end(0, error=MediaError("truncated", "cut"), duration_s=1.3)])
    assert found.logit == 1.0
    assert ("frames_lost", "the file breaks off after 1.3 s: cut") in [(d.code, d.words) for d in found.doubts]


def test_doubts_of_the_verdict():
    near = one([ClipEvent(0, clip(1.1), 0.0, 1.0), end(0)], fpr=0.3)
    assert "near_threshold" in {doubt.code for doubt in near.doubts}
    bare = one([ClipEvent(0, clip(9.0), 0.0, 1.0), end(0)], points=None)
    assert {doubt.code for doubt in bare.doubts} == {"no_operating_point"}
    assert (bare.probability, bare.threshold) == (bare.score, 0.5)


def test_frames_beyond_those_looked_at_have_no_times():
    (found,) = assemble(
        [ClipEvent(0, clip(1.0, frames=5), 0, 0), end(0)],
        [("a", "video")],
        score=lambda clips: [Scored(1.0, (1.0, 1.0))],
        clip_frames=2,
        judge=Judge(Operating({})),
    )
    assert found.timestamps_s == (0.25, 0.75)


def test_videos_do_not_wait_and_photos_share_a_batch():
    sizes = []
    seen = count()

    def events():
        for k in range(40):
            next(seen)
            yield ClipEvent(k, clip(float(k), frames=1), 0, 0)
            yield end(k)

    def counted(clips):
        sizes.append(len(clips))
        return score(clips)

    files = [(str(k), "image") for k in range(40)]
    judge = Judge(Operating({}))
    made = list(assemble(events(), files, score=counted, clip_frames=4, judge=judge))
    assert [found.logit for found in made] == list(range(40))
    assert max(sizes) == 16
    mixed = [
        ClipEvent(0, clip(1.0, frames=1), 0, 0),
        end(0),
        ClipEvent(1, clip(2.0), 0.0, 1.0),
        ClipEvent(1, clip(3.0), 1.0, 2.0),
    ]
    assert next(run(mixed, ["image", "video"])).logit == 1.0  # the video has not ended
    videos = assemble(events(), [(name, "video") for name, _ in files], score=counted, clip_frames=4, judge=judge)
    assert next(videos).logit == 0.0
    assert next(seen) == 41  # 40 photos, one video: the second has not been asked for


def test_windows_are_told_as_they_come():
    told = []
    events = [ClipEvent(0, clip(float(k), at=float(k)), float(k), k + 1.0) for k in range(30)]
    one([*events, end(0)], on_window=lambda path, window: told.append((path, window.logit)))
    assert told == [("file0", float(k)) for k in range(30)]
