"""Doubts in words: each appears where it should, and none about a good clip."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.faces import build_detector
from d2st.pipeline.faces.quality import MIN_BRIGHT, doubts
from d2st.pipeline.media import Frames, MediaInfo

GOOD_FACE = {
    "frames": 12,
    "kept": 12,
    "interpolated": 0,
    "coverage": 1.0,
    "faces_max": 1,
    "tracks": 1,
    "upscale": 0.8,
    "outside": 0.0,
}
VIDEO = {"frame_count": 300, "fps": 25.0, "frames_lost": 0}


def clip(level: int = 150, frames: int = 12) -> np.ndarray:
    return np.full((frames, 32, 32, 3), level, np.uint8)


def codes(crops: np.ndarray, *, media: dict | None = None, decoded: int = 12, **face: object) -> list[str]:
    return [code for code, _ in doubts(crops, {"face": GOOD_FACE | face, "media": VIDEO | (media or {}), "decoded": decoded})]


def test_a_good_clip_raises_no_doubt():
    assert codes(clip()) == []
    assert codes(clip(), tracks=4, faces_max=4) == []  # four people, each seen throughout


@pytest.mark.parametrize(
    ("code", "said", "face"),
    [
        ("too_small", "15 px", {"upscale": 2.1}),
        ("partly_outside", "31%", {"outside": 0.312}),
        ("face_changes", "5 of 12 frames", {"kept": 5, "coverage": 5 / 12}),
        ("face_changes", "3 faces came and went, with 1 at once", {"tracks": 3}),
        ("face_changes", "in 4 of 12 frames", {"interpolated": 4}),
    ],
)
def test_what_the_crops_were_cut_from_is_doubted_with_its_number(code, said, face):
    ((found, words),) = doubts(clip(), {"face": GOOD_FACE | face, "media": VIDEO, "decoded": 12})
    assert found == code
    assert said in words


def test_damage_and_few_frames_are_doubted_and_a_photo_is_not():
    assert codes(clip(), media={"frames_lost": 7}) == ["frames_lost"]
    assert codes(clip(frames=2)) == ["few_frames"]
    assert codes(clip(frames=2), media={"frame_count": 2}, decoded=2) == ["few_frames"]
    assert codes(clip(frames=1), media={"frame_count": 1, "fps": None}, decoded=1) == []
    assert codes(clip(frames=4), decoded=4) == []  # a detector that looks at four
    assert codes(clip(frames=3), decoded=4) == ["few_frames"]


@given(st.integers(0, 255))
def test_darkness_is_that_of_the_bright_parts_of_the_face_alone(level):
    crops = clip(level)
    crops[:, :6] = 255  # a window behind the head
    crops[:, :, -6:] = 0
    assert codes(crops) == (["too_dark"] if level < MIN_BRIGHT else [])


def test_dark_skin_in_good_light_is_not_dark_and_one_dark_frame_is_no_dark_clip():
    crops = clip(45)
    crops[:, 12:20, 10:22] = 120  # the lit fifth of a face
    assert codes(crops) == []
    crops[0] = 0
    assert codes(crops) == []


def test_it_reads_what_a_build_remembers():
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 60, (40, 40, 3), np.uint8), (0, 0), 3)
    info = MediaInfo("test", 1, None, 40, 40, 0, "png", "rgb24", 0)
    crops, remembered = crop_frames(Frames((picture,), (0,), (0.0,), info), build_detector("none"), CropSettings(size=112))[:2]
    assert [code for code, _ in doubts(crops, remembered)] == ["too_dark", "too_small"]
