"""However often a stage is stopped and resumed, each step of each kind is sent once, in order."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.adapter.train.track.memory import Memory
from d2st.adapter.train.track.protocol import Point
from d2st.cache.errors import RunError


def points(kind, steps):
    return [Point(kind=kind, step=step, time_s=0.0, values={}) for step in steps]


@settings(max_examples=30, deadline=None)
@given(attempts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 15), st.integers(1, 5)), min_size=1, max_size=4))
def test_each_step_once(attempts):
    with tempfile.TemporaryDirectory() as folder:
        path, sent = Path(folder) / "memory.json", {"step": [], "epoch": []}
        for start, count, every in attempts:
            memory = Memory(path)
            for kind, gap in (("step", 1), ("epoch", every)):
                chosen = memory.new(points(kind, range(start + gap, start + count + 1, gap)))
                sent[kind] += [point.step for point in chosen]
        for steps in sent.values():
            assert steps == sorted(set(steps))
        last = max(start + count for start, count, _ in attempts)
        assert sent["step"][-1] == last


def test_an_epoch_may_share_its_step_with_the_last_step(tmp_path):
    memory = Memory(tmp_path / "memory.json")
    assert memory.id is None
    memory.keep_id("ours")
    both = points("step", [10]) + points("epoch", [10])
    assert memory.new(both) == both
    again = Memory(tmp_path / "memory.json")
    assert again.id == "ours"
    assert again.new(both) == []


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "wandb.json"
    path.write_text("{")
    with pytest.raises(RunError, match=r"wandb\.json"):
        Memory(path)
