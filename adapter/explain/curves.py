"""Does the detector go by what a map shows? Deletion and insertion curves, in the pixels of the crops.

Petsiuk, Das and Saenko, "RISE", BMVC 2018: the pixels of the clip are replaced by those of a base, most important first (deletion), or put
into the base in that order (insertion). A faithful map makes P(fake) fall early in the one, and rise early in the other: a small area under
deletion, a large one under insertion.

The decision that shaped it: the base is the caller's, and its own score is kept beside the curves. RISE blurs, and for a detector of
forgeries that is no neutral base: blur takes the grain away, as generators do, and on the demo the blurred crop of a real face scores
0.98. Taking evidence away then looks like adding some. Where the genuine recording of a fake exists, as in the demo's corpus, its pixels
are a base that means something: which place has to be restored, and the detector believes the rest?
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Curves", "blurred", "deletion_insertion", "random_map"]

Score = Callable[[np.ndarray], np.ndarray]  # clips (B,T,S,S,3) uint8 -> logits (B,)
STEPS = 8
BLUR_RATIO = 0.1  # of the crop's side: deviation of the Gaussian
CLIPS_AT_ONCE = 8
EDGE = 4  # cells: four deviations of the smoothing of random maps


@dataclass(frozen=True)
class Curves:
    """P(fake) after each of `len - 1` equal steps, (steps + 1,): of the clip as it is to the base (deletion) and back (insertion)."""

    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Mean of P(fake) on the way, 0..1; small for a faithful map."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Mean of P(fake) on the way, 0..1; large for a faithful map."""
        return _area(self.insertion)


def deletion_insertion(
    crops: np.ndarray, base: np.ndarray, maps: Sequence[np.ndarray], score: Score, *, steps: int = STEPS
) -> list[Curves]:
    """Both curves of one clip for each of several maps, which share the ends.

    Args:
        crops, base: (T,S,S,3) uint8.
        maps: (T,H,W) each, of any grid, enlarged bilinearly; all pixels of the clip stand in one order, so it says when, too.
        score: logits (B,) of clips (B,T,S,S,3); called with a few at a time.
    """
    if crops.shape != base.shape or any(len(importance) != len(crops) for importance in maps):
        raise ValueError(f"crops {crops.shape}, base {base.shape} and maps {[m.shape for m in maps]} do not belong together")
    whole, nothing = _p_fake(np.asarray(score(np.stack([crops, base]))))
    shares = np.arange(1, steps) / steps
    found = []
    for importance in maps:
        rank = _rank(importance, crops.shape[1])[..., None]  # (T,S,S,1) in 0..1
        ways = [(base, crops, share) for share in shares] + [(crops, base, share) for share in shares]
        logits: list[float] = []
        for begin in range(0, len(ways), CLIPS_AT_ONCE):
            part = ways[begin : begin + CLIPS_AT_ONCE]
            logits += list(score(np.stack([np.where(rank < share, first, rest) for first, rest, share in part])))
        gone, put = np.split(_p_fake(np.asarray(logits)), 2)
        found.append(Curves(np.array([whole, *gone, nothing]), np.array([nothing, *put, whole])))
    return found


def blurred(crops: np.ndarray) -> np.ndarray:
    """The base of RISE: crops (T,S,S,3) without detail."""
    return np.stack([cv2.GaussianBlur(crop, (0, 0), BLUR_RATIO * crops.shape[1]) for crop in crops])


def random_map(shape: tuple[int, int, int], *, seed: int) -> np.ndarray:
    """A map (T,H,W) that knows nothing: noise, as smooth as maps are, since scattered cells would be a weaker opponent.

    Its edges meet, so that its highest point is everywhere alike; else it would mostly lie at the edge, away from the face.
    """
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    around = np.pad(noise, ((0, 0), (EDGE, EDGE), (EDGE, EDGE)), mode="wrap")
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in around])[:, EDGE:-EDGE, EDGE:-EDGE]


def _rank(importance: np.ndarray, side: int) -> np.ndarray:
    """Place of each pixel in the order of falling importance, (T,S,S) in 0..1; ties stand in a random, fixed order."""
    large = np.stack(
        [cv2.resize(frame.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) for frame in importance]
    )
    order = np.lexsort((np.random.default_rng(0).random(large.size), -large.ravel()))
    rank = np.empty(large.size)
    rank[order] = (np.arange(large.size) + 0.5) / large.size
    return rank.reshape(large.shape)


def _p_fake(logits: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2  # no overflow at either end


def _area(curve: np.ndarray) -> float:
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))
