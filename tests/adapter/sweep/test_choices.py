"""How networks of a kind are to be computed: by what was measured, and in doubt one by one."""

import pytest
import torch

from d2st.adapter.sweep.choices import Choices


def measured(monkeypatch, seconds, device="cpu"):
    """Choices of one kind after passes that took `seconds`, as long as it was a question; and how each was computed."""
    choices, clock, modes = Choices(torch.device(device)), iter(()), []
    monkeypatch.setattr(Choices, "_clock", lambda self: next(clock))
    for took in seconds:
        if choices.settled("kind"):
            break
        clock, mode = iter((0.0, took)), choices.mode("kind")
        modes.append(mode)
        with choices.timed("kind", mode, frames=1):
            pass
    return choices, modes


@pytest.mark.parametrize(
    ("seconds", "mode", "passes"),
    [
        ((3.0, 2.0, 1.0, 0.5), "stacked", 4),  # the first of each only warms up
        ((3.0, 2.0, 1.0, 0.99), "alone", 4),  # that may be noise
        ((1.0, 1.5), "alone", 2),  # slower from the first pass: no further one is spent
    ],
)
def test_what_is_clearly_faster_is_kept_to(monkeypatch, seconds, mode, passes):
    choices, modes = measured(monkeypatch, seconds)
    assert modes == ["alone", "stacked"] * (passes // 2)
    assert choices.settled("kind")
    assert choices.mode("kind") == mode
    assert "of the time" in choices.verdict("kind")


def test_a_gpu_may_warm_up_slowly(monkeypatch):
    choices, modes = measured(monkeypatch, (1.0, 9.0, 1.0, 0.2), device="cuda")
    assert len(modes) == 4
    assert choices.mode("kind") == "stacked"
