import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.errors import ConfigError, UnknownNameError
from d2st.pipeline.media import Job, sample_indices


@given(count=st.integers(0, 5000), frames=st.integers(1, 64), sampling=st.sampled_from(["even", "clip"]))
def test_indices_are_valid_distinct_and_as_many_as_there_can_be(count, frames, sampling):
    indices = sample_indices(count, frames, sampling)
    assert len(indices) == min(count, frames)
    assert indices == sorted(set(indices))
    assert all(0 <= index < count for index in indices)


@given(count=st.integers(1, 5000), frames=st.integers(1, 64))
def test_even_is_symmetric_in_time_and_clip_is_consecutive(count, frames):
    even = sample_indices(count, frames, "even")
    assert abs(even[0] - (count - 1 - even[-1])) <= 1
    clip = sample_indices(count, frames, "clip")
    assert clip == list(range(clip[0], clip[0] + len(clip)))
    assert abs(clip[0] - (count - 1 - clip[-1])) <= 1


def test_reference_values():
    assert sample_indices(300, 12, "even") == [12, 37, 62, 87, 112, 137, 162, 187, 212, 237, 262, 287]
    assert sample_indices(10, 4, "even") == [1, 3, 6, 8]
    assert sample_indices(10, 4, "clip") == [3, 4, 5, 6]
    assert sample_indices(3, 12, "even") == sample_indices(3, 12, "clip") == [0, 1, 2]
    assert sample_indices(0, 12, "even") == []


def test_nonsense_is_refused_before_any_file_is_read():
    with pytest.raises(UnknownNameError, match="even"):
        Job("a", "a.mp4", "video", 12, "random")
    with pytest.raises(UnknownNameError, match="frames"):
        Job("a", "a.mp4", "movie", 12, "even")
    with pytest.raises(ConfigError):
        Job("a", "a.mp4", "video", 0, "even")
