"""What speaks against trusting a score, seen in the crops themselves: darkness, a tiny or cut-off face, few frames, changes of face.

The decision: a doubt never changes a score; it says in words, with the number that it rests on, where the detector was seen to fail. The
limits were set by spoiling the test videos of the demo corpus (101, faces of 112 px with their margin) and scoring them with the demo's
detector. Below stand its AUC, and how well the logits agree (correlation) with those of the same videos as they are (AUC 0.845):

    too_dark: less than 90      darkened to nine degrees (linear light), then grouped by where a face's brightest tenth begins: from 160 of
                                255 on 0.82; 110 to 160 0.74; 90 to 110 0.75; 75 to 90 0.68; 60 to 75 0.67; below 60 0.66
    too_small: more than 2      of 60 videos, as they are 0.80; shrunk, so that faces are enlarged 1.1 times 0.77, 1.7 times 0.69, 2.2 times
                                0.68, where the real ones have gained 4.8 in logit and pass for fake
    partly_outside: above 25 %  a fifth of the crop beyond the picture's edge 0.84, 0.97; three tenths 0.81, 0.88; four tenths 0.79, 0.82
    few_frames: less than 6     of 12 frames 8: 0.83, 0.96; 6: 0.78, 0.91; 4: 0.76, 0.81, with 1.2 more in logit; 1: 0.72, 0.69

Another detector on other faces will bend elsewhere, so these are no error bars. What face_changes looks for is too rare in that corpus to
measure; its limits are where a third, or a quarter, of the frames shows something else than was asked for.
"""

from typing import Any

import cv2
import numpy as np

__all__ = ["doubts"]

# Brightness is that of the face's brightest tenth, so that dark skin in good light is not called dark: the demo's darkest face, well lit,
# has 103, six photographs have 161 to 211, and a dark shot of real footage has 76.
MIN_BRIGHT = 90
MAX_UPSCALE = 2.0
MAX_OUTSIDE = 0.25
MIN_FRAMES = 6
MAX_INTERPOLATED = 0.25
MIN_COVERAGE = 2 / 3


def doubts(crops: np.ndarray, info: dict[str, Any]) -> list[tuple[str, str]]:
    """Reasons to doubt the score of one clip, as (code, words) pairs; none for a good one.

    Args:
        crops: (T,S,S,3) uint8 RGB, T >= 1.
        info: what `crop_frames` remembered of them.

    The codes: too_dark, too_small (enlarged more than 2 times), partly_outside (of the picture), few_frames (of a video),
    face_changes (the face was lost, guessed or replaced on the way), frames_lost (to damage of the file).
    """
    face, media = info["face"], info["media"]
    found: list[tuple[str, str]] = []
    bright = _brightness(crops)
    if bright < MIN_BRIGHT:
        found.append(("too_dark", f"the face is dark (its brightest tenth begins at {bright:.0f} of 255)"))
    if face["upscale"] > MAX_UPSCALE:
        side = crops.shape[1] / face["upscale"]
        found.append(("too_small", f"the face is small: {side:.0f} px with its margin, enlarged {face['upscale']:.1f} times"))
    if face["outside"] > MAX_OUTSIDE:
        found.append(("partly_outside", f"up to {face['outside']:.0%} of the face's surroundings lie outside of the picture"))
    if len(crops) < _enough_frames(info):
        found.append(("few_frames", f"the score rests on {len(crops)} frame{'s' * (len(crops) > 1)} alone"))
    changes = _changes(face)
    if changes:
        found.append(("face_changes", changes))
    if media["frames_lost"]:
        found.append(("frames_lost", f"{media['frames_lost']} frames could not be decoded"))
    return found


def _enough_frames(info: dict[str, Any]) -> int:
    """How many frames do not make one doubt: 6, or as many as were asked for where that is less; 1 of a photo."""
    media = info["media"]
    if media["frame_count"] == 1 and media["fps"] is None:
        return 1
    return min(MIN_FRAMES, info["decoded"]) if media["frame_count"] > info["decoded"] else MIN_FRAMES


def _brightness(crops: np.ndarray) -> float:
    """Where the brightest tenth of the face begins, in grey levels (Rec. 601 luma): the median over the frames.

    Only the middle half of a crop, a quarter of its area, is looked at; the rest is hair and background.
    """
    n = crops.shape[1]
    middle = slice(n // 4, n - n // 4)
    grey = [cv2.cvtColor(np.ascontiguousarray(crop[middle, middle]), cv2.COLOR_RGB2GRAY) for crop in crops]
    return float(np.median([np.percentile(picture, 90) for picture in grey]))


def _changes(face: dict[str, Any]) -> str:
    """In what way the face was not simply seen from the first sampled frame to the last; "" if it was."""
    said = []
    if face["coverage"] < MIN_COVERAGE:
        said.append(f"the face was followed through {face['kept']} of {face['frames']} frames")
    if face["tracks"] > face["faces_max"]:
        said.append(f"{face['tracks']} faces came and went, with {face['faces_max']} at once")
    if face["interpolated"] > MAX_INTERPOLATED * face["kept"]:
        said.append(f"in {face['interpolated']} of {face['kept']} frames its place is a guess between others")
    return "; ".join(said)
