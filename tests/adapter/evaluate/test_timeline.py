"""The timeline shows what it was given: one face or many, gaps, hours, names that look like formulas."""

import io

import numpy as np
import pytest
from PIL import Image

from d2st.adapter.evaluate.timeline import Line, timeline_png

ONE = Line("face 1", [(0.0, 1.0, 0.2), (1.0, 2.0, 0.9), (3.0, 4.0, 0.4)], [(0.5, 0.2), (1.5, 0.9)])


def pixels(lines, **options):
    arguments = {"gaps": [], "threshold": 0.5, "duration_s": 4.0, "title": "clip"} | options
    return np.array(Image.open(io.BytesIO(timeline_png(lines, **arguments))).convert("RGB")).astype(int)


def test_gaps_and_the_threshold_are_drawn():
    plain = pixels([ONE])
    assert plain.shape == (442, 1300, 3)
    assert (pixels([ONE], gaps=[(2.0, 3.0)]) != plain).any()
    assert (pixels([ONE], threshold=0.95) != plain).any()
    assert (pixels([ONE]) == plain).all()


@pytest.mark.parametrize("title", ["a $x_{ and $ more", "100%_\\n"])
def test_any_file_name_is_a_title(title):
    many = [Line(f"face {k}", [(0.0, 7200.0, k / 10)], []) for k in range(9)]
    assert pixels(many, title=title, duration_s=7200.0).any()


def test_no_face_at_all_and_no_length():
    assert pixels([], gaps=[(0.0, 4.0)]).any()
    assert pixels([Line("face 1", [(0.0, 0.0, 0.5)], [(0.0, 0.5)])], duration_s=0.0).any()
