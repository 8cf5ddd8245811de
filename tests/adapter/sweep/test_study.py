"""The journal of a sweep: what is proposed, pruned and remembered, by several at once and after a crash."""

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

from d2st.adapter.sweep.space_file import read_space
from d2st.adapter.sweep.study import Study
from d2st.cache.errors import RunError, StoreError

SPACE = """
stage = 2
start = "scratch"
[set]
optim.epochs = 12
[sweep]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
"optim.batch_size" = {{ low = 2, high = 16 }}
"adapter.name" = ["d2st", "linear_probe"]
"adapter.params.preset" = ["tiny", "base"]
"adapter.layers" = [["block_1"], "all"]
[search]
sampler = "{sampler}"
pruner = "{pruner}"
"""


def make_space(folder, *, sampler="random", pruner="none", text=SPACE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.toml").write_text(text.format(sampler=sampler, pruner=pruner), encoding="utf-8")
    return read_space(folder / "space.toml")


def ask(study, count, *, total=100):
    with study.exclusive():
        return study.ask(count, total=total)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_trials_draw_within_the_space(tmp_path, sampler):
    study = Study(tmp_path, make_space(tmp_path, sampler=sampler))
    rows = ask(study, 12)
    assert [row.number for row in rows] == list(range(12))
    for row in rows:
        assert 1e-4 <= row.values["optim.lr"] <= 1e-2
        assert isinstance(row.values["optim.batch_size"], int)
        assert row.values["adapter.layers"] in (["block_1"], "all")
        assert ("adapter.params.preset" in row.values) == (row.values["adapter.name"] == "d2st")
    assert len({row.values["optim.lr"] for row in rows}) == 12  # those that run at once keep away from each other


def test_what_a_random_search_tries_does_not_depend_on_who_asks(tmp_path):
    at_once = ask(Study(tmp_path / "a", make_space(tmp_path / "a")), 6)
    space = make_space(tmp_path / "b")
    one_by_one = [row for _ in range(3) for row in ask(Study(tmp_path / "b", space), 2)]  # three processes
    assert [row.values for row in at_once] == [row.values for row in one_by_one]


def test_no_more_trials_than_asked_for(tmp_path):
    space = make_space(tmp_path)
    one, other = Study(tmp_path, space), Study(tmp_path, space)
    assert (len(ask(one, 4, total=5)), len(ask(other, 4, total=5)), len(ask(one, 4, total=5))) == (4, 1, 0)
    assert one.rows() == other.rows()


def test_a_grid_ends_by_itself(tmp_path):
    text = 'stage = 1\n[sweep]\n"optim.lr" = [0.1, 0.2, 0.3]\n"adapter.layers" = [["block_1"], "all"]\n[search]\nsampler = "grid"\n'
    study = Study(tmp_path, make_space(tmp_path, text=text))
    rows = ask(study, 100)
    assert study.most == len(rows) == 6
    assert ask(study, 1) == []
    assert len({repr(row.values) for row in rows}) == 6


def test_how_trials_ended_is_remembered(tmp_path):
    space = make_space(tmp_path)
    study = Study(tmp_path, space)
    ask(study, 4)
    study.report(0, epoch=1, value=0.6)
    study.finish(0, 0.7)
    study.report(1, epoch=1, value=0.5)
    study.prune(1)
    study.fail(2, "a loss is not finite")
    study.fail(0, "too late to say so")
    rows = Study(tmp_path, space).rows()
    assert [row.state for row in rows] == ["complete", "pruned", "failed", "running"]
    assert [row.value for row in rows] == [0.7, 0.5, None, None]
    assert rows[0].epochs == {1: 0.6}
    assert rows[2].error == "a loss is not finite"


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_pruners_spare_the_first_epoch_and_the_best(tmp_path, pruner):
    study = Study(tmp_path, make_space(tmp_path, pruner=pruner))
    order = np.random.default_rng(0).permutation(12)
    ask(study, 12)
    assert all(study.report(int(number), epoch=1, value=0.5) for number in order)
    kept = {int(number): study.report(int(number), epoch=2, value=0.5 + number / 100) for number in order}
    assert kept[11]
    assert 1 <= sum(kept.values()) < 12


def test_without_a_pruner_all_go_on(tmp_path):
    study = Study(tmp_path, make_space(tmp_path))
    ask(study, 6)
    assert all(study.report(number, epoch=2, value=number / 10) for number in range(6))


def test_a_torn_last_record_is_cut_off(tmp_path):
    space = make_space(tmp_path)
    ask(Study(tmp_path, space), 3)
    journal = tmp_path / "journal.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker')
    study = Study(tmp_path, space)
    assert len(study.rows()) == 3
    assert [row.number for row in ask(study, 1)] == [3]
    assert len(Study(tmp_path, space).rows()) == 4


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    study = Study(tmp_path, make_space(tmp_path))
    ask(study, 1)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="no space left to write"):
        study.report(0, epoch=1, value=0.5)


class Overtaken:
    """A file that was read before the others wrote."""

    def __init__(self, file, read):
        self._file, self.read = file, lambda: read

    def truncate(self, size):
        self._file.truncate(size)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def test_who_joins_does_not_cut_off_what_others_write(tmp_path, monkeypatch):
    space = make_space(tmp_path)
    study = Study(tmp_path, space)
    ask(study, 2)
    opened, writer = Path.open, threading.Thread(target=study.report, args=(0,), kwargs={"epoch": 1, "value": 0.7})

    def slow(path, mode="r", *rest, **options):  # the joiner has the journal open, and is overtaken
        file = opened(path, mode, *rest, **options)
        if mode == "rb+":
            read = file.read()
            writer.start()
            writer.join(0.3)
            return Overtaken(file, read)
        return file

    monkeypatch.setattr(Path, "open", slow)
    joined = Study(tmp_path, space)
    writer.join()
    assert joined.row(0).epochs == study.row(0).epochs == {1: 0.7}


@pytest.mark.parametrize("line", [b"nonsense\n", b"5\n"])
def test_a_damaged_journal_is_an_error_with_a_cure(tmp_path, line):
    space = make_space(tmp_path)
    ask(Study(tmp_path, space), 1)
    journal = tmp_path / "journal.log"
    journal.write_bytes(line + journal.read_bytes())
    with pytest.raises(RunError, match="damaged"):
        Study(tmp_path, space)


def test_importances_find_the_key_that_matters(tmp_path):
    study = Study(tmp_path, make_space(tmp_path))
    rows = ask(study, 40)
    assert study.importances() == {}
    for row in rows:
        study.finish(row.number, 0.9 - abs(np.log10(row.values["optim.lr"]) + 3))
    found = study.importances()
    assert max(found, key=found.get) == "optim.lr"
    assert sum(found.values()) == pytest.approx(1)
