"""What to buy: the advice follows the slowest stage, and knows that on a CPU all stages share the cores."""

import pytest

from d2st.pipeline.build.use import StageUse, advice


@pytest.mark.parametrize(
    ("speeds", "device", "word"),
    [
        ({"decode": 400, "crop": 300, "encode": 2000, "write": 900}, "cuda:0", "more CPU cores"),
        ({"decode": 4000, "crop": 3000, "encode": 2000, "write": 9000}, "cuda:0", "The GPU"),
        ({"decode": 4000, "crop": 3000, "encode": 2000, "write": 900}, "cuda:0", "disk"),
        ({"decode": 400, "crop": 100, "encode": 7, "write": 900}, "cpu", "a GPU would help most"),
        ({"decode": 40, "crop": 100, "encode": 120, "write": 900}, "cpu", "more CPU cores would help"),
        ({"encode": 7, "write": 900}, "cpu", "CLIP takes 100%"),
    ],
)
def test_advice(speeds, device, word):
    assert word in advice([StageUse(stage, 0.5, speed) for stage, speed in speeds.items()], device=device)


def test_a_disk_that_was_idle_does_not_set_the_pace():
    few = [StageUse("crop", 0.11, 142), StageUse("encode", 0.19, 65), StageUse("write", 0.12, 60)]
    assert "CLIP takes 69%" in advice(few, device="cpu")


def test_no_advice_without_work():
    assert advice([], device="cpu") == ""
