"""Claims: one holder a key, whatever dies, sleeps or wakes; gc and repair have the store to themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from d2st.cache.claims import Claims
from d2st.cache.errors import StoreError
from d2st.cache.process import is_gone, this_process

HOLDER = """
import sys
from pathlib import Path
from d2st.cache.claims import Claims
with Claims(Path(sys.argv[1]), purpose=sys.argv[2], expires_s=float(sys.argv[3])) as claims:
    print(claims.take("a"), flush=True)
    for line in sys.stdin:
        print(claims.still_mine("a"), flush=True)
"""

WORKER = """
import os, sys
from pathlib import Path
from d2st.cache.claims import Claims
store, worked = Path(sys.argv[1]), 0
with Claims(store / "claims", purpose="build", expires_s=5.0) as claims:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(200):
        key = f"tokens.{i * 7 % 200:06d}"
        if (store / f"{key}.done").exists() or not claims.take(key):
            continue
        if not (store / f"{key}.done").exists():
            os.close(os.open(store / f"{key}.busy", os.O_CREAT | os.O_EXCL))  # fails if two hold it
            os.rename(store / f"{key}.busy", store / f"{key}.done")
            worked += 1
        claims.release(key)
print(worked)
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def hold(tmp_path):
    """A function (purpose, expires_s) -> another process that has claimed "a"; whatever is left of it at the end is killed."""
    started = []

    def start_holder(purpose="build", expires_s=60.0):
        process = start(HOLDER, tmp_path / "claims", purpose, expires_s)
        started.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start_holder
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def still_mine(process):
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline() == "True\n"


def test_four_processes_share_200_keys(tmp_path):
    workers = [start(WORKER, tmp_path) for _ in range(4)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:  # all at once
        worker.stdin.write("go\n")
        worker.stdin.flush()
    worked = [int(worker.communicate(timeout=30)[0]) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert sum(worked) == 200
    assert len(list(tmp_path.glob("*.done"))) == 200
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_killed_holder_is_followed_at_once(tmp_path, hold):
    holder = hold()
    with Claims(tmp_path / "claims", purpose="build") as claims:
        assert not claims.take("a")
        assert [other.pid for other in claims.others()] == [holder.pid]
        holder.send_signal(signal.SIGKILL)  # not waited for: a zombie is dead too
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert claims.take("a")
        assert claims.others() == []
        assert len(list((tmp_path / "claims").glob("*.builder"))) == 1
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_sleeping_holder_is_followed_after_it_expired_and_learns_of_it(tmp_path, hold):
    holder = hold(expires_s=0.5)
    with Claims(tmp_path / "claims", purpose="build", expires_s=0.5) as claims:
        time.sleep(0.7)
        assert not claims.take("a")  # it beats
        assert still_mine(holder)
        holder.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        while not claims.take("a"):
            time.sleep(0.02)
            assert time.monotonic() - begin < 5
        assert time.monotonic() - begin > 0.2
        holder.send_signal(signal.SIGCONT)
        assert not still_mine(holder)
        assert claims.still_mine("a")
        holder.stdin.close()  # it lets go what it holds, and that is nothing
        holder.wait(5)
        assert claims.still_mine("a")


def test_a_claim_that_was_taken_over_and_let_go_holds_nothing(tmp_path):
    with (
        Claims(tmp_path / "claims", purpose="build", expires_s=1000) as sleeper,
        Claims(tmp_path / "claims", purpose="build", expires_s=1000) as other,
    ):
        assert sleeper.take("a")
        os.utime(tmp_path / "claims" / sleeper._presence.name, (0, 0))  # it sleeps for too long
        assert other.take("a")
        other.release("a")
        assert not sleeper.still_mine("a")  # awake again
        assert other.take("a")
        other.release("a")
        assert sleeper.take("a")


def test_two_takers_of_a_dead_holder(tmp_path, hold):
    holder = hold()
    with Claims(tmp_path / "claims", purpose="build") as one, Claims(tmp_path / "claims", purpose="build") as two:
        holder.kill()
        holder.wait()
        assert [one.take("a"), two.take("a"), one.take("a")] == [True, False, True]
        one.release("a")
        assert not one.still_mine("a")
        assert [two.take("a"), one.take("a")] == [True, False]


def strangers_file(folder: Path, age_s: float, **more) -> Path:
    """The presence of a process on another machine."""
    folder.mkdir(exist_ok=True)
    path = folder / "7-abc.builder"
    path.write_text(json.dumps({**this_process(), "host": "elsewhere", "pid": 7, "purpose": "build", **more}))
    os.utime(path, (time.time() - age_s,) * 2)
    (folder / "a.g0").write_text(path.name)
    return path


@pytest.mark.parametrize(("age_s", "living"), [(-3600, True), (0, True), (5, True), (3600, False)])
def test_on_another_machine_age_alone_counts(tmp_path, age_s, living):
    strangers_file(tmp_path / "claims", age_s)
    with Claims(tmp_path / "claims", purpose="build", expires_s=30) as claims:
        assert claims.take("a") is not living
        assert [other.host for other in claims.others()] == ["elsewhere"] * living


def test_the_local_clock_does_not_matter(tmp_path, monkeypatch):
    strangers_file(tmp_path / "claims", 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with Claims(tmp_path / "claims", purpose="build", expires_s=30) as claims:
        assert not claims.take("a")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\x00", b'{"pid": "x"}', b'{"host": 1, "pid": -1, "purpose": "build"}']
)
def test_garbage_in_the_folder_expires_like_the_rest(tmp_path, content):
    stranger = strangers_file(tmp_path / "claims", 0)
    stranger.write_bytes(content)
    (tmp_path / "claims" / "b.g0").write_bytes(content + b"/../../x")
    with Claims(tmp_path / "claims", purpose="build", expires_s=30) as claims:
        assert claims.take("b")
        assert not claims.take("a")
        os.utime(stranger, (0, 0))
        assert claims.take("a")


def test_a_claim_whose_holder_died_while_writing_it(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.g0").touch()
    with Claims(tmp_path / "claims", purpose="build", expires_s=30) as claims:
        assert not claims.take("a")
        os.utime(tmp_path / "claims" / "a.g0", (0, 0))
        assert claims.take("a")


def test_a_beat_that_stopped_starts_again(tmp_path):
    with Claims(tmp_path / "claims", purpose="build", expires_s=0.3) as claims:
        claims.take("a")
        presence = claims._presence
        presence._stop.set()
        presence._thread.join()
        presence._stop.clear()
        with Claims(tmp_path / "claims", purpose="build", expires_s=0.3) as other:
            time.sleep(0.4)
            assert other.take("a")
            assert not claims.still_mine("a")
            assert claims.take("b")
            time.sleep(0.4)
            assert not other.take("b")


def test_gc_and_builds_keep_each_other_out(tmp_path, hold):
    holder = hold()
    with Claims(tmp_path / "claims", purpose="gc") as claims:
        with (
            pytest.raises(StoreError, match=rf"process {holder.pid} on .* \(build, last sign of life \d s ago\)"),
            claims.alone(),
        ):
            pass
        holder.kill()
        holder.wait()
        with claims.alone(), pytest.raises(StoreError, match=r"is in use.*\(gc,"), Claims(tmp_path / "claims", purpose="build"):
            pass
        assert claims.others() == []  # who was turned away leaves nothing
        with (
            Claims(tmp_path / "claims", purpose="repair") as repair,
            pytest.raises(StoreError, match="is in use"),
            repair.alone(),
        ):
            pass
    with Claims(tmp_path / "claims", purpose="build") as claims:
        assert claims.take("a")


def test_a_dead_gc_keeps_nobody_out(tmp_path, hold):
    gc = hold(purpose="gc")
    with pytest.raises(StoreError, match="is in use"), Claims(tmp_path / "claims", purpose="build"):
        pass
    gc.kill()
    gc.wait()
    with Claims(tmp_path / "claims", purpose="build") as claims:
        assert claims.take("a")


def test_a_builder_that_slept_through_the_start_of_a_gc_stops(tmp_path):
    with Claims(tmp_path / "claims", purpose="build") as builder:
        assert builder.take("a")
        os.utime(next((tmp_path / "claims").glob("*.builder")), (0, 0))
        with Claims(tmp_path / "claims", purpose="gc") as gc, gc.alone():
            assert not builder.still_mine("a")
            with pytest.raises(StoreError, match="is in use"):
                builder.take("b")


def test_a_folder_that_can_not_be_written(tmp_path):
    with pytest.raises(StoreError, match="can't write"), Claims(tmp_path / "nothing" / "claims", purpose="build"):
        pass
    (tmp_path / "claims").write_text("a file")
    with pytest.raises(StoreError, match="Check the folder"), Claims(tmp_path / "claims", purpose="build"):
        pass
    (tmp_path / "claims").unlink()
    with Claims(tmp_path / "claims", purpose="build") as claims:
        claims.take("a")
        shutil.rmtree(tmp_path / "claims")
        with pytest.raises(StoreError, match="can't write"):
            claims.take("b")


def test_processes_tell_themselves_from_namesakes():
    me = this_process()
    assert not is_gone(me)
    assert is_gone({**me, "started": 1})  # the id was given again
    assert is_gone({**me, "pid": 2**22 + 1})
    for place in ({"host": "elsewhere"}, {"boot": "another"}, {"pid_namespace": "pid:[1]"}):
        assert not is_gone({**me, "pid": 2**22 + 1, **place})
    assert not is_gone({})


class Builders(RuleBasedStateMachine):
    """Three builders that take, let go, sleep for too long, wake and leave: a key never has two holders among those awake."""

    who, what = st.integers(0, 2), st.sampled_from("ab")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.claims = {}
        self.asleep = set()

    def awake(self, who):
        if who not in self.claims:
            self.claims[who] = Claims(self.folder / "claims", purpose="build", expires_s=1000)
            self.claims[who].__enter__()
        self.asleep.discard(who)
        return self.claims[who]

    def holders(self, key):
        return [who for who in self.claims if who not in self.asleep and self.claims[who].still_mine(key)]

    @rule(who=who, key=what)
    def take(self, who, key):
        claims, others = self.awake(who), set(self.holders(key)) - {who}
        assert claims.take(key) is not bool(others)

    @rule(who=who, key=what)
    def release(self, who, key):
        others = set(self.holders(key)) - {who}
        self.awake(who).release(key)
        assert set(self.holders(key)) == others - {who}

    @rule(who=who)
    def sleep(self, who):
        if who in self.claims:
            presence = self.claims[who]._presence
            if (self.folder / "claims" / presence.name).exists():
                os.utime(self.folder / "claims" / presence.name, (0, 0))
            self.asleep.add(who)

    @rule(who=who)
    def leave(self, who):
        if who in self.claims:
            self.claims.pop(who).__exit__(None, None, None)
            self.asleep.discard(who)

    @invariant()
    def at_most_one_holder(self):
        assert all(len(self.holders(key)) <= 1 for key in "ab")

    def teardown(self):
        for claims in self.claims.values():
            claims.__exit__(None, None, None)
        assert not [path for path in (self.folder / "claims").glob("*") if path.suffix == ".builder"]
        shutil.rmtree(self.folder)


TestBuilders = Builders.TestCase
TestBuilders.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
