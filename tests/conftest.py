"""What every test shares."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small gain nothing from threads, and on a busy machine they wait for each other a hundred times as long."""
    torch.set_num_threads(1)
