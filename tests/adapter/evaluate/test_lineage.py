"""What a stage has learnt from, through runs that start from one another."""

import json

import pytest

from d2st.adapter.evaluate.lineage import RECORD, lineage


@pytest.fixture
def stage(tmp_path):
    """`stage("a/stage1", init)` makes a stage's records; without `init` those of older versions."""

    def make(name, *init):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / RECORD).touch()
        (folder / "fingerprint.json").write_text(json.dumps({"init": init[0]} if init else {}))
        return folder

    return make


def test_a_start_from_another_run_is_followed(stage):
    one, two, other = stage("a/stage1", None), stage("a/stage2", "a/stage1"), stage("b/stage2", "a/stage1")
    three = stage("b/stage3", "b/stage2")
    assert lineage(two) == ([two, one], True)
    assert lineage(three) == ([three, other, one], True)


def test_what_started_from_scratch_has_not_seen_the_stages_before_it(stage):
    stage("a/stage1", None)
    two = stage("a/stage2", None)
    assert lineage(two) == ([two], True)


def test_trials_of_a_sweep_start_from_runs_above_them(stage):
    one, trial = stage("a/stage1", None), stage("sweep/trials/0007/stage2", "a/stage1")
    assert lineage(trial) == ([trial, one], True)


def test_older_records_mean_the_run_itself(stage):
    one, two = stage("a/stage1"), stage("a/stage2")
    assert lineage(two) == ([two, one], True)


@pytest.mark.parametrize("init", ["gone/stage1", "weights.safetensors", "a/stage2"])
def test_a_start_that_is_not_there_is_told(stage, init):
    two = stage("a/stage2", init)
    assert lineage(two) == ([two], False)
