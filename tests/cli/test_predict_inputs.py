"""Any name may be given, and whatever is wrong with one costs nobody else anything."""

import os
from pathlib import Path

from d2st.cli.predict_inputs import expand
from d2st.detection import media_kind


def test_a_name_that_the_system_refuses_stays_one_of_many(tmp_path):
    named = [tmp_path / ("a" * 300), tmp_path / f"{'b' * 300}.jpg", tmp_path / "c.mp4", Path("a\0b.mp4")]
    assert expand(named, null=False) == named
    assert [media_kind(path) for path in named] == ["video", "image", "video", "video"]


def test_a_pipe_without_an_ending_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert media_kind(tmp_path / "pipe") == "video"  # which says that it is no ordinary file
