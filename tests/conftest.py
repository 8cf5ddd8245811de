"""What every test shares."""

import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# no property is about time, and a busy machine can take longer over any example than hypothesis allows by default
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One process a core, four at most; none beside this one for single files, which are done before others could have started."""
    named = [Path(name.partition("::")[0]) for name in config.option.file_or_dir]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores) if cores > 1 and all(path.is_dir() for path in named) else 0


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks and matrices this small gain nothing from threads, which on a busy machine wait for each other a hundred times as long."""
    import torch  # here, because the process that hands out the tests needs none

    torch.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """A shell's job in the background ignores SIGINT: tests that press Ctrl-C would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def threads_left():
    """A function -> the program's threads that were started in this test and still run. Other files' stay out of it: crashes that are
    only simulated leave theirs behind, and which files share a process is xdist's choice."""
    before = set(threading.enumerate())
    return lambda: [thread.name for thread in threading.enumerate() if thread not in before and thread.name.startswith("d2st")]


@pytest.fixture
def unplotted(monkeypatch):
    """An evaluation's pictures are laid out, but not drawn: drawing takes longer than all the rest of a small evaluation."""
    monkeypatch.setattr("d2st.adapter.evaluate.plots.png", lambda figure: b"not drawn")
