"""The same face has the same number in every window, as if the video had been one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.pipeline.faces import Follower
from d2st.pipeline.faces.detections import make_detections
from d2st.pipeline.faces.track import link_tracks


def face(x, y=100, side=80):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def numbers(columns, lengths, *, looks=None, wanted=None, step_s=0.5):
    """Cut the frames (lists of boxes) into windows, and give for each window the middle of each track's first box and its number."""
    follower, start, found = Follower(), 0, []
    for length in lengths:
        part = slice(start, start + length)
        detections = [make_detections(boxes, [0.9] * len(boxes)) for boxes in columns[part]]
        times_s = [step_s * k for k in range(part.start, part.stop)]
        start = part.stop
        if not any(columns[part]):
            follower.skip(length)
            found.append({})
            continue
        tracks = link_tracks(detections, times_s, looks=None if looks is None else looks[part])
        kept = [True] * len(tracks) if wanted is None else [wanted(track) for track in tracks]
        given_numbers = follower.number(tracks, times_s, wanted=kept)
        found.append({float(t.boxes[0][0] + t.boxes[0][2]) / 2: n for t, n in zip(tracks, given_numbers, strict=True)})
    return found


def test_two_faces_that_cross_between_windows_keep_their_numbers():
    columns = [[face(100 + 30 * k), face(520 - 30 * k, y=130)] for k in range(12)]
    first, second, third = numbers(columns, [4, 4, 4])
    assert first == {100: 1, 520: 2}
    assert second == {220: 1, 400: 2}
    assert third == {340: 1, 280: 2}


def test_a_face_may_be_missed_at_the_seam_but_not_for_long():
    columns = [[face(100)], [face(100)], [], [], [face(100)], [face(100)]]
    assert numbers(columns, [3, 3]) == [{100: 1}, {100: 1}]
    columns = [[face(100)], [face(100)], [], [], [], [face(100)], [face(100)]]
    assert numbers(columns, [3, 4]) == [{100: 1}, {100: 2}]
    assert numbers([[face(100)]] * 2 + [[]] * 2 + [[face(100)]] * 2, [2, 2, 2]) == [{100: 1}, {}, {100: 1}]
    assert numbers([[face(100)]] * 2 + [[]] * 3 + [[face(100)]] * 2, [2, 3, 2]) == [{100: 1}, {}, {100: 2}]


def test_another_persons_look_in_the_same_place_is_a_new_number():
    columns = [[face(100)]] * 4
    dark, light = np.full((1, 96), 40, np.float32), np.full((1, 96), 160, np.float32)
    assert numbers(columns, [2, 2], looks=[dark, dark, light, light]) == [{100: 1}, {100: 2}]
    assert numbers(columns, [2, 2], looks=[dark, dark, dark + 10, dark + 10]) == [{100: 1}, {100: 1}]


def test_numbers_are_kept_for_faces_that_are_wanted_and_follow_those_that_are_not_yet():
    columns = [[face(100), face(400)], [face(100)], [face(100), face(400)], [face(100), face(400)]]
    found = numbers(columns, [2, 2], wanted=lambda track: len(track.positions) == 2)
    assert found == [{100: 1, 400: None}, {100: 1, 400: 2}]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=6, max_size=30),
    st.integers(1, 5),
    st.data(),
)
def test_windows_number_faces_as_one_long_clip_would(steps, length, data):
    """Three faces far apart wander and are missed now and then; wherever the windows are cut, each has one number."""
    places = np.array([[0.0, 0.0], [2000.0, 0.0], [0.0, 2000.0]])
    columns, seen = [], np.zeros(3, int)
    for move in steps:
        places += move
        missed = np.array(data.draw(st.lists(st.booleans(), min_size=3, max_size=3))) & (seen < 2)
        seen = np.where(missed, seen + 1, 0)
        columns.append([face(x, y) for (x, y), gone in zip(places, missed, strict=True) if not gone])
    lengths = [length] * (-(-len(columns) // length))
    found = numbers(columns, lengths)
    assert {n for window in found for n in window.values()} <= {1, 2, 3}
