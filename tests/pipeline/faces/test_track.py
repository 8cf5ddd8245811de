import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from d2st.pipeline.faces.detections import make_detections
from d2st.pipeline.faces.track import choose_track, link_tracks


def face(x, y=100, side=80):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def frames(*columns):
    """One `Detections` a column of boxes."""
    return [make_detections(boxes, [0.99] * len(boxes)) for boxes in columns]


def seconds(found, step_s=1.0):
    return [k * step_s for k in range(len(found))]


def middles(track):
    return [float(b[0] + b[2]) / 2 for b in track.boxes]


def test_one_moving_face_is_one_track():
    found = frames(*([face(100 + 60 * k)] for k in range(6)))  # moves by three quarters of its size a frame
    (track,) = link_tracks(found, seconds(found))
    assert track.positions == list(range(6))
    assert not track.interpolated


def test_a_face_elsewhere_is_another_track():
    found = frames([face(100)], [face(400)])
    assert len(link_tracks(found, seconds(found))) == 2


def test_a_face_of_another_size_near_by_is_another_track():
    found = frames([face(100, side=80)], [face(150, side=200)])
    assert len(link_tracks(found, seconds(found))) == 2


def test_two_faces_that_cross_keep_to_their_ways():
    found = []
    for k in range(11):
        pair = [face(100 + 20 * k), face(300 - 20 * k, y=110)]
        found += frames(pair if k % 2 else pair[::-1])  # their order in a frame says nothing
    tracks = link_tracks(found, seconds(found, 0.04))
    ways = sorted(middles(t) for t in tracks)
    assert ways == [[100 + 20 * k for k in range(11)], [300 - 20 * k for k in range(11)]]


def test_gaps_of_two_frames_are_filled_in_a_straight_line():
    found = frames([face(100)], [], [], [face(130)])
    (track,) = link_tracks(found, seconds(found))
    assert track.positions == [0, 1, 2, 3]
    assert track.interpolated == {1, 2}
    np.testing.assert_allclose(middles(track), [100, 110, 120, 130])


def test_filling_goes_by_time_and_not_by_count():
    found = frames([face(100)], [], [face(140)])
    (track,) = link_tracks(found, [0.0, 3.0, 4.0])
    np.testing.assert_allclose(middles(track), [100, 130, 140])


def test_clocks_that_stand_still_are_survived():
    found = frames([face(100)], [], [face(140)])
    (track,) = link_tracks(found, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(middles(track), [100, 120, 140])


def test_a_gap_of_three_frames_splits():
    found = frames([face(100)], [], [], [], [face(100)])
    assert [t.positions for t in link_tracks(found, seconds(found))] == [[0], [4]]


def test_the_choice_is_by_track_and_not_by_frame():
    found = [*frames([face(100), face(500, side=140)]), *frames(*([face(100)] for _ in range(7)))]
    best = choose_track(link_tracks(found, seconds(found)), len(found))
    assert best.positions == list(range(8))


def test_a_larger_face_wins_over_a_small_one_that_stays_as_long():
    found = frames(*([face(100, side=60), face(500, side=140)] for _ in range(4)))
    assert middles(choose_track(link_tracks(found, seconds(found)), 4)) == [500] * 4


def test_interpolated_frames_add_no_weight():
    whole, holed = frames(*([face(100)] for _ in range(3))), frames([face(100)], [], [face(100)])
    (a,), (b,) = link_tracks(whole, seconds(whole)), link_tracks(holed, seconds(holed))
    assert a.weight(3) > b.weight(3)


def test_a_face_that_looks_different_in_the_same_place_is_not_linked():
    found = frames([face(100)], [face(101)])
    dark, light = np.full((1, 96), 30.0), np.full((1, 96), 120.0)
    assert len(link_tracks(found, seconds(found), looks=[dark, light])) == 2
    assert len(link_tracks(found, seconds(found), looks=[dark, dark + 5])) == 1


@given(st.lists(st.lists(st.tuples(st.floats(0, 600), st.floats(20, 200)), max_size=4), min_size=1, max_size=8))
def test_every_detection_lands_on_exactly_one_track_and_tracks_have_no_holes(columns):
    found = frames(*([face(x, side=side) for x, side in column] for column in columns))
    tracks = link_tracks(found, seconds(found))
    seen = [(p, tuple(b)) for t in tracks for p, b in zip(t.positions, t.boxes, strict=True) if p not in t.interpolated]
    assert sorted(seen) == sorted((k, tuple(b)) for k, f in enumerate(found) for b in f.boxes)
    for track in tracks:
        assert track.positions == list(range(track.positions[0], track.positions[-1] + 1))
        assert len(track.positions) == len(track.boxes) == len(track.landmarks) == len(track.scores)
