"""Two processes train as one does: torchrun starts one script that runs the real command, and then all that can go wrong.

One start for everything, beside the training by one process that it is compared with: starting is most of what they do.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from d2st.adapter.train import load_recipe, run_training
from d2st.adapter.train.interrupt import deferred_interrupt
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.ranks import Ranks, joined, own_part, pick_rank_device
from d2st.cache.errors import ConfigError

# 24 and 12 samples in batches of 6 to 8: uneven parts for two
OVERRIDES = (
    "adapter.params.width=16",
    "optim.batch_size=7",
    "optim.epochs=2",
    "optim.accumulate=2",
    "optim.ema=0.9",
    "optim.lr=3e-3",
    "optim.precision=float32",
    "align.coral=1.0",  # beside the alignment losses that the recipe has
    "augment.brightness=0.1",
)
LOSS_TOLERANCE = 1e-5  # sums of float32 in another order, through a dozen steps of AdamW
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
LIMIT_S = 120


def torchrun(*arguments):
    """`two_ranks.py` as two processes of torchrun, in a session of its own, started."""
    script = Path(__file__).parent / "two_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, *arguments]
    environment = ENVIRONMENT | {"OVERRIDES": json.dumps(OVERRIDES)}
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def world(store, tmp_path_factory):
    """A folder of runs with "one" (one process), "two" (`d2st train` in two) and those of the script; and what everyone said."""
    runs, out = tmp_path_factory.mktemp("ranks"), tmp_path_factory.mktemp("said")
    launched = torchrun(store.path, runs, out)
    try:
        run_training(store, runs=runs, name="one", overrides=OVERRIDES, device="cpu")
        said = {"stderr": launched.communicate(timeout=LIMIT_S)[1]}
    finally:
        with suppress(ProcessLookupError):  # the whole session: a torchrun that is killed leaves its processes behind
            os.killpg(launched.pid, signal.SIGKILL)
    assert launched.returncode == 0, said["stderr"]
    for rank in range(2):
        said[rank] = json.loads((out / f"{rank}.json").read_text())
        said[rank] |= {ending: (out / f"{rank}.{ending}").read_text() for ending in ("out", "err")}
    return runs, said


def curve(runs, name, stage):
    return [json.loads(line) for line in (runs / name / f"stage{stage}" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_have_the_curve_of_one(world, stage):
    runs, said = world
    assert said[0]["two"] == said[1]["two"] == "SystemExit: 0", said[0]["err"]
    one, two = (curve(runs, name, stage) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for mine, theirs in zip(one, two, strict=True):
        assert theirs["losses"] == pytest.approx(mine["losses"], abs=LOSS_TOLERANCE)
        assert theirs["val"] == pytest.approx(mine["val"], abs=LOSS_TOLERANCE)  # AUC of all kinds among them
        assert theirs["lr"] == mine["lr"]
    if stage == 3:
        assert {"supcon", "coral", "mmd", "consistency"} <= set(one[0]["losses"])
    assert json.loads((runs / f"two/stage{stage}/environment.json").read_text())["ranks"] == 2


def test_only_the_first_process_speaks(world):
    _, said = world
    out, err = (said[0][ending] + said[1][ending] for ending in ("out", "err"))
    assert out.count("next: d2st eval") == 1
    assert err.count("stage 2 starts from two/stage1") == err.count("stage 3 epoch 2/2") == 1
    assert err.count("shared by 2 processes") == 3


def test_a_mistake_is_told_once_and_before_any_work(world):
    runs, said = world
    assert said[0]["wrong"] == said[1]["wrong"] == "SystemExit: 1"
    assert said["stderr"].count("Did you mean optim.lr") == 1
    assert not (runs / "wrong").exists()


def test_what_fails_on_one_process_alone_is_told_by_the_first(world):
    _, said = world
    assert said[0]["one fails"] == "RunError: process 1: only here. Mend it"
    assert said[1]["one fails"] == "SystemExit: 1"


def test_a_signal_to_one_stops_all_at_one_step_and_one_process_goes_on(world, store):
    runs, said = world
    assert said[0]["interrupt"] == said[1]["interrupt"] == "KeyboardInterrupt: "
    folder = runs / "stopped" / "stage1"
    assert "interrupted after epoch 2, step 1" in (folder / "log.txt").read_text()  # its step 3: the second epoch's first
    run_training(store, stages=[1], runs=runs, name="stopped", resume=True, device="cpu")
    for mine, theirs in zip(curve(runs, "one", 1), curve(runs, "stopped", 1), strict=True):
        assert theirs["losses"] == pytest.approx(mine["losses"], abs=LOSS_TOLERANCE)
        assert theirs["val"] == pytest.approx(mine["val"], abs=LOSS_TOLERANCE)


def test_a_nan_on_one_stops_all_and_names_the_whole_batch(world, store):
    _, said = world
    assert said[1]["nan"] == "SystemExit: 1"
    assert "epoch 1, step 2 (clip nan" in said[0]["nan"]
    named = said[0]["nan"].split("its samples: ")[1].split(". ")[0].split(", ")
    assert set(named) <= set(store.samples()["sample_id"])
    assert len(named) == 12  # 6 of each process' batches, two to a step


def test_a_process_that_dies_does_not_hang_the_other(world):
    _, said = world
    assert said[0]["death"].startswith("RunError: another process of this run ended")
    assert "death" not in said[1]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_are_those_of_array_split(size):
    for count in (7, 8, 20):
        parts = np.array_split(np.arange(count), size)
        for rank, part in enumerate(parts):
            assert np.array_equal(np.arange(count)[own_part(Ranks(rank, size), count)], part)


def test_a_batch_must_have_a_sample_for_each_process(store):
    with pytest.raises(ConfigError, match="batches of 6, too few to share among 7"):
        plan_stage(store, load_recipe(1, OVERRIDES), store.samples(), ranks=7)


def test_without_torchrun_there_is_one_and_devices_are_not_shared(monkeypatch):
    with joined() as ranks:
        assert ranks == Ranks() == Ranks(0, 1, 0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks.size == 1
    assert pick_rank_device(Ranks(1, 2, 1), "cpu") == "cpu"
    with pytest.raises(ConfigError, match="can't share the device 'cuda:0'"):
        pick_rank_device(Ranks(1, 2, 1), "cuda:0")


def test_a_signal_that_is_passed_on_is_the_same_wish(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("d2st.adapter.train.interrupt.time.monotonic", lambda: now[0])
    with deferred_interrupt(again_after_s=0.2) as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        now[0] += 0.25
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
