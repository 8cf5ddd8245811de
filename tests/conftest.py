"""What every test shares."""

import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits

# no property is about time, and a busy machine can take longer over any example than hypothesis allows by default
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks and matrices this small gain nothing from threads, which on a busy machine wait for each other a hundred times as long."""
    torch.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def unplotted(monkeypatch):
    """An evaluation's pictures are laid out, but not drawn: drawing takes longer than all the rest of a small evaluation."""
    monkeypatch.setattr("d2st.adapter.evaluate.plots.png", lambda figure: b"not drawn")
