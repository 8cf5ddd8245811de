import pytest
import torch

from d2st.cache.device import pick_device
from d2st.cache.errors import ConfigError


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that this many usable GPUs are there."""

    def pretend(count, current=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "count", "current", "found"),
    [
        ("auto", 0, 0, "cpu"),
        ("cpu", 2, 0, "cpu"),
        ("auto", 1, 0, "cuda:0"),
        ("auto", 2, 1, "cuda:1"),
        ("cuda", 2, 1, "cuda:1"),
        ("cuda:0", 2, 1, "cuda:0"),
    ],
)
def test_the_device_that_is_meant(gpus, wanted, count, current, found):
    gpus(count, current)
    assert pick_device(wanted) == found


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_a_gpu_that_is_asked_for_and_missing_is_an_error(gpus, wanted):
    gpus(0)
    with pytest.raises(ConfigError, match="no usable CUDA GPU"):
        pick_device(wanted)


def test_a_gpu_beyond_the_last_is_an_error(gpus):
    gpus(2)
    with pytest.raises(ConfigError, match="Use cuda:0 to cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda:0 "])
def test_other_words_are_refused(wanted):
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        pick_device(wanted)
