"""Follow one face through the sampled frames.

The decision that shaped it: the face is chosen by its whole track, not frame by frame. The largest face of a frame may be a
passer-by or a framed photograph; choosing anew in each frame would splice people together and look like a forgery. Sampled
frames may lie a second apart, so linking tolerates movement by about one face size between frames; a track predicts where its
face goes, so that two faces may cross.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from .boxes import box_centres, box_sides, iou
from .detections import Detections
from .look import LOOK_LIMIT, look_distances

__all__ = ["MAX_GAP", "Track", "choose_track", "link_tracks", "match_boxes"]

MAX_GAP = 2  # sampled frames that a face may be missed for; a longer gap ends the track
MIN_IOU = 0.3  # below this, boxes are linked by the distance of their centres
MAX_MOVE = 1.0  # between two sampled frames, in sides of the face
MAX_GROWTH = 2.0  # ratio of two sides of one face in neighbouring sampled frames


@dataclass
class Track:
    """One face over time. positions: of the frames it covers, in order, without gaps once `link_tracks` has returned it.

    boxes (n, 4), landmarks (n, 5, 2; NaN if unknown), scores (n,): lists while it grows, one entry a position.
    interpolated: the positions that no detection was made in. look, first_look: of its latest and its first face, as `face_looks` has them.
    """

    positions: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    landmarks: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    interpolated: set[int] = field(default_factory=set)
    look: np.ndarray | None = None
    first_look: np.ndarray | None = None

    def weight(self, frames: int) -> float:
        """sum(score x area) x coverage, over the frames in which the face was really seen."""
        seen = [k for k, position in enumerate(self.positions) if position not in self.interpolated]
        areas = [float(np.prod(self.boxes[k][2:] - self.boxes[k][:2])) for k in seen]
        return sum(self.scores[k] * area for k, area in zip(seen, areas, strict=True)) * len(self.positions) / frames


def link_tracks(
    detections: Sequence[Detections],
    timestamps_s: Sequence[float],
    *,
    looks: Sequence[np.ndarray] | None = None,
) -> list[Track]:
    """Link the faces of T frames into tracks and fill their gaps; a track starts where it is first seen.

    timestamps_s: ascending, one a frame; they scale the prediction of movement and the interpolation over gaps.
    looks: the `face_looks` of each frame's boxes; faces that look too different are not linked. None links by place alone.
    """
    tracks: list[Track] = []
    for position, found in enumerate(detections):
        alive = [t for t in tracks if position - t.positions[-1] <= MAX_GAP + 1]
        look = None if looks is None else looks[position]
        links = match_boxes(alive, found.boxes, look, position, timestamps_s)
        for k in range(len(found)):
            if k in links:
                track = alive[links[k]]
            else:
                tracks.append(track := Track(first_look=None if look is None else look[k]))
            track.positions.append(position)
            track.boxes.append(found.boxes[k])
            track.landmarks.append(found.landmarks[k])
            track.scores.append(float(found.scores[k]))
            track.look = None if look is None else look[k]
    return [_fill(track, timestamps_s) for track in tracks]


def choose_track(tracks: Sequence[Track], frames: int) -> Track:
    """The track with the greatest weight; of equal ones the earliest."""
    return max(tracks, key=lambda t: t.weight(frames))


def match_boxes(
    tracks: Sequence[Track],
    boxes: np.ndarray,
    looks: np.ndarray | None,
    position: int,
    timestamps_s: Sequence[float] | Mapping[int, float],
) -> dict[int, int]:
    """Which box (key) of the frame at `position` goes on which track (value): the best pairs first, each track and box once.

    boxes (K, 4), looks (K, 96) or None; timestamps_s: by position, of this frame and of the last two of each track.
    """
    if not tracks or not len(boxes):
        return {}
    last = np.stack([t.boxes[-1] for t in tracks])
    ahead = np.stack([_predict(t, timestamps_s[position], timestamps_s) for t in tracks])
    overlap = np.maximum(iou(last, boxes), iou(ahead, boxes))  # (tracks, boxes)
    sides_a, sides_b = box_sides(last)[:, None], box_sides(boxes)[None]
    steps = np.array([position - t.positions[-1] for t in tracks])[:, None]
    side = np.maximum((sides_a + sides_b) / 2, 1e-6)
    moves = [np.linalg.norm(box_centres(b)[:, None] - box_centres(boxes), axis=2) / side for b in (last, ahead)]
    move = np.minimum(*moves)
    alike = np.maximum(sides_a, sides_b) <= MAX_GROWTH * np.minimum(sides_a, sides_b)
    # overlaps rank before distances: an IoU lies in 0.3..1, a distance that is allowed is made to lie in -2..0
    rank = np.where(overlap >= MIN_IOU, overlap, np.where((move <= MAX_MOVE * steps) & alike, -move / steps, -np.inf))
    if looks is not None:
        rank[look_distances(np.stack([t.look for t in tracks]), looks) > LOOK_LIMIT] = -np.inf
    links: dict[int, int] = {}
    for flat in np.argsort(-rank, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(boxes))
        if rank[row, column] == -np.inf:
            break
        if column not in links and row not in links.values():
            links[column] = row
    return links


def _predict(track: Track, at_s: float, timestamps_s: Sequence[float] | Mapping[int, float]) -> np.ndarray:
    """The track's last box, moved on with the speed of its last two frames."""
    if len(track.positions) < 2:
        return track.boxes[-1]
    before_s, last_s = (timestamps_s[p] for p in track.positions[-2:])
    if last_s <= before_s:
        return track.boxes[-1]
    speed = (box_centres(track.boxes[-1][None]) - box_centres(track.boxes[-2][None]))[0] / (last_s - before_s)
    return track.boxes[-1] + np.tile(speed * (at_s - last_s), 2).astype(np.float32)


def _fill(track: Track, timestamps_s: Sequence[float]) -> Track:
    """Interpolate the frames that a track misses between its first and last one, linearly in time."""
    whole = list(range(track.positions[0], track.positions[-1] + 1))
    if whole == track.positions:
        return track
    seen_s, whole_s = ([timestamps_s[p] for p in at] for at in (track.positions, whole))
    if any(b <= a for a, b in pairwise(whole_s)):
        seen_s, whole_s = track.positions, whole  # clocks that stand still: count frames instead

    def between(values: list) -> list[np.ndarray]:
        flat = np.stack(values).reshape(len(values), -1)
        columns = [np.interp(whole_s, seen_s, column) for column in flat.T]
        return list(np.stack(columns, axis=1).reshape(len(whole), *np.shape(values[0])).astype(np.float32))

    scores = [float(s) for s in between([np.float32(s) for s in track.scores])]
    missed = set(whole) - set(track.positions)
    return replace(
        track,
        positions=whole,
        boxes=between(track.boxes),
        landmarks=between(track.landmarks),
        scores=scores,
        interpolated=missed,
    )
