"""Pipes are bounded and keep order; whatever ends one stage ends all, and is seen by the caller as it was raised."""

import _thread
import threading
import time

import pytest

from d2st.pipeline.build.flow import Clock, Flow, Pipe, Stopped


def test_items_come_out_in_order_and_no_more_wait_than_may(threads_left):
    seen, waiting = [], []
    with Flow() as flow:
        pipe = Pipe[int](flow, 4)
        sent = []

        def feed():
            for k in range(50):
                pipe.put(k, weight=2)
                sent.append(k)
            pipe.close()

        def drain():
            for k in pipe:
                waiting.append(len(sent) - len(seen))
                seen.append(k)

        flow.run("feed", feed)
        flow.run("drain", drain)
    assert seen == list(range(50))
    assert max(waiting) <= 4  # two in the pipe, one in each hand
    assert threads_left() == []


def test_a_heavier_item_than_the_pipe_still_passes():
    with Flow() as flow:
        pipe = Pipe[str](flow, 2)
        flow.run("feed", lambda: (pipe.put("heavy", weight=9), pipe.close()))
        assert list(pipe) == ["heavy"]


@pytest.mark.parametrize("error", [ValueError("here"), KeyboardInterrupt("from a callback"), SystemExit(3)])
@pytest.mark.parametrize("place", ["first", "last"])
def test_an_error_anywhere_ends_every_stage_and_is_raised_as_it_is(error, place, threads_left):
    def feed():
        for k in range(10_000):
            pipe.put(k)
            if place == "first" and k == 5:
                raise error

    def drain():
        for k in pipe:
            if place == "last" and k == 5:
                raise error

    flow = Flow()
    pipe = Pipe[int](flow, 2)
    flow.run("feed", feed)
    flow.run("drain", drain)
    with pytest.raises(type(error)) as caught, flow:
        pass
    assert caught.value is error
    assert threads_left() == []


def test_ctrl_c_ends_every_stage(threads_left):
    def feed():
        while True:
            pipe.put(0)

    began = time.monotonic()
    flow = Flow()
    pipe = Pipe[int](flow, 2)
    flow.run("feed", feed)
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt), flow:
        pass
    timer.join()
    assert time.monotonic() - began < 5
    assert threads_left() == []


def test_waiting_ends_with_the_flow_or_in_time():
    with Flow() as flow:
        began = time.monotonic()
        flow.wait(lambda: False, timeout_s=0.05)
        assert time.monotonic() - began < 5
        flow.stop()
        with pytest.raises(Stopped):
            flow.wait(lambda: False)
        with pytest.raises(Stopped):
            flow.check()


def test_a_clock_counts_what_runs():
    clock = Clock()
    with clock.running():
        time.sleep(0.05)
    assert 0.04 < clock.busy_s < 1
    assert clock.cpu_s < 0.04
